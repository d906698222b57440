"""Faults between a silo and its workers, as `tests/mutants.py` plants them: name, file, old, new,
tests."""

W, T = "actors/workers/", "tests/actors/workers/"
TEAM, PROCESSES, SHARES = (
    T + "test_team.py",
    T + "test_processes.py",
    "tests/platform/test_shares.py",
)

IN_WORKERS = (
    (
        "messages between a silo and its workers in the clear",
        W + "sealing.py",
        '''        return self._sending.close(packed(parcel), _place(self._sent))

    def open(self, content: bytes) -> Parcel:
        """Open the other side's next parcel.

        Raises:
            KeyRefused: it is not that.
        """
        self._received += 1
        return unpacked(self._receiving.open(content, _place(self._received)))
''',
        """        return packed(parcel)

    def open(self, content: bytes) -> Parcel:
        return unpacked(content)
""",
        TEAM,
    ),
    (
        "objects of Ray between a silo and its workers in the clear",
        W + "sealing.py",
        '''        return self._sending.close(packed(parcel), _place(self._sent))

    def open(self, content: bytes) -> Parcel:
        """Open the other side's next parcel.

        Raises:
            KeyRefused: it is not that.
        """
        self._received += 1
        return unpacked(self._receiving.open(content, _place(self._received)))
''',
        """        return packed(parcel)

    def open(self, content: bytes) -> Parcel:
        return unpacked(content)
""",
        PROCESSES,
    ),
    (
        "messages of workers in any order",
        W + "sealing.py",
        '    return number.to_bytes(8, "little")\n',
        '    return b""\n',
        TEAM,
    ),
    (
        "a worker that takes the keys of a second silo",
        W + "worker.py",
        "        if self._sealed is not None:",
        "        if False:",
        TEAM,
    ),
    (
        "a worker's errors in the clear",
        W + "worker.py",
        '            answer = Parcel({"failed": encoded(failure_of(error)).decode()})',
        "            raise",
        TEAM,
    ),
    (
        "a sum without the worker that failed",
        W + "team.py",
        "                raise one\n",
        "                continue\n",
        TEAM,
    ),
    (
        "a sum without the worker that died",
        W + "processes.py",
        "                found[ref] = self._value(ref, asked.index(ref))\n",
        """                try:
                    found[ref] = self._value(ref, asked.index(ref))
                except SiloLost:
                    found[ref] = next(iter(found.values()), None)
""",
        PROCESSES,
    ),
    (
        "a private sample from a seed",
        W + "worker.py",
        "        return generator_of(self.job, self.silo)",
        "        return np.random.default_rng(0)",
        TEAM,
    ),
    (
        "one part of a seeded stream for all workers",
        W + "worker.py",
        '            skip(own.random, said["before"])\n',
        "",
        TEAM,
    ),
    (
        "workers on a Ray with other organisations' silos, started by a silo",
        W + "processes.py",
        "        if not own:",
        "        if False:",
        PROCESSES,
    ),
    (
        "workers on a Ray with other organisations' silos, asked for by a driver",
        "actors/ray_cluster.py",
        "        if not self._own and any(",
        "        if False and any(",
        PROCESSES,
    ),
    (
        "a CSV for several workers",
        "actors/prepared.py",
        "    require_shareable(places.table)\n",
        "",
        "tests/pipelines/test_check_tables.py",
    ),
    (
        "shares of two tables",
        "platform/data/shares.py",
        "    if count_records(path) != records:",
        "    if False:",
        SHARES,
    ),
    (
        "records to refuse in one share",
        "platform/data/shares.py",
        "if isinstance(one, ShareReport) and not one.refused]",
        "if isinstance(one, ShareReport)]",
        SHARES,
    ),
)
