"""The kinds of files that tables are read from, and the few Arrow types that they end up with."""
