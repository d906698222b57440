"""Clipping of every record's gradient, for any model."""
