"""A release that proves itself: one file with a run's results, which its silos sign."""
