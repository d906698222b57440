"""Tracking of a run in MLflow, and its plot."""
