"""The `blindsum` command."""
