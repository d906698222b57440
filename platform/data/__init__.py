"""A silo's records: read, checked, featurised and split."""
