"""The parties of a run: silos, aggregators, and the federation that drives their rounds."""
