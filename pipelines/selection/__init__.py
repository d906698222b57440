"""`blindsum features`: which features and which model to train, chosen on public records."""
