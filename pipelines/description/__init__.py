"""Describing what a consortium holds, and proposing a job's public constants from it."""
