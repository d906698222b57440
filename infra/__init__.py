"""Where it runs: a local Ray for one machine, or a cluster that is already there."""
