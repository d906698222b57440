"""Runs beside each other: baselines, sweeps and the comparison."""
