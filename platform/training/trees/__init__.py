"""Gradient-boosted trees that all silos grow from the same summed histograms."""
