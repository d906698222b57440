"""Computes what a silo's table of molecules needs: kept results are read, and only the rest is
computed.

Small tables are computed in the silo's own process. For larger ones, whose molecules take longer
than starting processes does, the rest is computed side by side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pyarrow as pa

from blindsum.platform.data.computing import Computing
from blindsum.platform.data.kept_results import content_digest
from blindsum.platform.data.molecule_work import MoleculePart, MoleculeWork
from blindsum.platform.data.workers import Workers

CHUNK_S = 0.5
"""About the time that a chunk of molecules takes: so often the silo says how far it is."""
WORTH_S = 2.0
"""The least time of computing for which processes are started; each takes a second to start."""
MOST_CHUNK, MOST_PROCESSES = 2000, 64


def computed(
    parts: Sequence[MoleculePart], texts: pa.ChunkedArray, computing: Computing
) -> pa.Table:
    """Return a table with the parts' columns and a row for each text. Each text is read once.

    Raises:
        JobError: RDKit does not have a descriptor, or no public scaling is known for it.
        DataError: a process that computes died or cannot be started.
        Unexpected: texts or results could not be exchanged with one.
    """
    digest = content_digest(pa.table({"text": texts})) if computing.kept else ""
    rows = len(texts)
    known = [computing.known(part.inputs(digest), part.schema, rows) for part in parts]
    missing = tuple(part for part, found in zip(parts, known, strict=True) if found is None)
    tables = [found for found in known if found is not None]
    if missing:
        made = _Computation(MoleculeWork(missing), texts.to_pylist(), computing).table()
        for part in missing:
            computing.keep(part.inputs(digest), made.select(part.schema.names))
        tables.append(made)
    columns = {name: table[name] for table in tables for name in table.column_names}
    return pa.table(columns).combine_chunks()


class _Computation:
    """One computation, from its first text to its last."""

    def __init__(self, work: MoleculeWork, texts: list[str], computing: Computing) -> None:
        self._work, self._texts, self._computing = work, texts, computing
        self._tables: list[pa.Table] = []
        self._done = 0

    def table(self) -> pa.Table:
        """Return the results of all texts, in order."""
        compute = self._work.compute()
        per_s = self._begin(compute)
        size = max(1, min(MOST_CHUNK, round(per_s * CHUNK_S)))
        starts = range(self._done, len(self._texts), size)
        chunks = [self._texts[start : start + size] for start in starts]
        seconds = (len(self._texts) - self._done) / per_s
        processes = min(self._computing.cores, MOST_PROCESSES, len(chunks))
        if processes > 1 and seconds > WORTH_S:
            self._side_by_side(chunks, processes)
        else:
            for chunk in chunks:
                self._add(compute(chunk))
        return pa.concat_tables([self._work.schema.empty_table(), *self._tables])

    def _begin(self, compute: Callable[[Sequence[str]], pa.Table]) -> float:
        """Compute the first texts here, and return how many it computes in a second."""
        started, size = time.perf_counter(), 1
        while True:
            self._add(compute(self._texts[self._done : self._done + size]))
            spent = time.perf_counter() - started
            if spent > CHUNK_S or self._done == len(self._texts):
                return max(self._done, 1) / max(spent, 1e-6)
            size = min(2 * size, MOST_CHUNK)

    def _side_by_side(self, chunks: Sequence[Sequence[str]], processes: int) -> None:
        tables: dict[int, pa.Table] = {}
        with Workers(self._work, processes) as workers:
            for number, table in workers.tables(chunks):
                tables[number] = table
                self._tell(table.num_rows)
        self._tables += [tables[number] for number in range(len(chunks))]

    def _add(self, table: pa.Table) -> None:
        self._tables.append(table)
        self._tell(table.num_rows)

    def _tell(self, rows: int) -> None:
        self._done += rows
        self._computing.told(self._done / max(len(self._texts), 1))
