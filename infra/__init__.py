"""The places where Blindsum runs: a local Ray on one machine, or an existing cluster."""
