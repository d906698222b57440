"""Blindsum: federated training where neither the silos nor the server see another's data."""
