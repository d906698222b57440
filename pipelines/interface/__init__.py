"""`import blindsum`: jobs, runs and simulations as Python objects."""
