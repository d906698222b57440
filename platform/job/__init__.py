"""A run's settings: the job file, the owner's file, and the paths that follow from them."""
