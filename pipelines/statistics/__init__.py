"""A consortium's statistics, shown: tables for the terminal, a page, files of a run."""
