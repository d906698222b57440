"""Separate clusters: every organisation runs its own Ray, and only typed messages cross.

The coordinator's `gate` listens. Each silo's `agent` connects to it, outwards only, and passes
messages to the silo in its own Ray. `cluster` is the port through which the federation reaches
such silos; it does not know the difference.
"""
