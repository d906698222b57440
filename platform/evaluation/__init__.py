"""Evaluation on held-out records, counted as integers that can be summed encrypted."""
