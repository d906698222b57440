"""Processes of a silo's own Ray that share its table: each holds some of the records, and sums over
them. `blindsum.actors.workers.team` is the silo's side, `blindsum.actors.workers.worker` theirs.

Messages between them are sealed (`blindsum.actors.workers.sealing`), because whoever reads Ray's
object store, or the files to which it spills, could otherwise read sums of few records, and values
from the table. The table itself never passes through Ray: each process reads its own share.
"""
