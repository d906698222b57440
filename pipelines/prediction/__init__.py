"""`blindsum predict`: applies a released model to a table."""
