"""How a model learns from records: losses, clipping, local steps, the server's step."""
