"""What a person runs: the command line and the pipelines behind it."""
