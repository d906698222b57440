"""Reads the configuration and tables of MELLODDY-TUNER, version 3, for `blindsum prepare`."""
