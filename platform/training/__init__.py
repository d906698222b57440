"""Training of a model on records: losses, clipping, local steps, the server's step."""
