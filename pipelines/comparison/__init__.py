"""Comparing runs: baselines, sweeps and the comparison itself."""
