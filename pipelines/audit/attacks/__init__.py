"""The attacks, one per file, each compared with a guess from public knowledge."""
