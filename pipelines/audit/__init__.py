"""`blindsum audit`: attacks a job's own model, data and protocol, and reports what stops them."""
