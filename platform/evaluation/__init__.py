"""What held-out records say of a model, as integers that can be summed encrypted."""
