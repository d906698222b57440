"""A released model in the job's own terms: its file, and predictions from raw columns."""
