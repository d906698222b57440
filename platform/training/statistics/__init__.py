"""Statistics of all silos' records, from sums."""
