"""What is recorded of a run: MLflow, and the picture of it."""
