"""Preparation: turns a silo's own tables into its training table, in the same way at every silo."""
