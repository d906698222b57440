"""The files that a silo keeps on its own disk, and nothing else."""
