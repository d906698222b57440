"""Attacks on a job's own model, data and protocol, and what stops them: `blindsum audit`."""
