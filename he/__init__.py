"""Encrypted sums of integer vectors, by an aggregator that cannot read them."""
