"""One federated run, from a job file to a released model."""
