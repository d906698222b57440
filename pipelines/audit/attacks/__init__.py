"""The attacks, one a file, each measured against a guess without the secret."""
