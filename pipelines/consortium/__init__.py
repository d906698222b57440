"""Commands and pages of a consortium whose organisations have clusters of their own."""
