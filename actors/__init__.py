"""Who runs where: silos, the aggregator, and the federation that drives their rounds."""
