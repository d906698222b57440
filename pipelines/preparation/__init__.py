"""Preparation: builds the table that a silo trains on from its own tables, with Ray."""
