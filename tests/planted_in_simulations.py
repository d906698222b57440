"""Faults in simulations and in what Python shows, as `tests/mutants.py` plants them: name, file,
old, new, tests."""

SIMULATION, INTERFACE = "tests/pipelines/test_simulation.py", "tests/pipelines/test_interface.py"
FILE = "pipelines/interface/simulation.py"
SHARED_RUN = "tests/pipelines/test_shared_simulation.py"
SHARED, ON_RAY = "tests/actors/test_shared_process.py", "tests/actors/test_simulated_silos.py"

IN_SIMULATIONS = (
    (
        "a simulation that charges a silo's own ledger",
        FILE,
        ', "state": str(own / "state" / name)}',
        "}",
        SIMULATION,
    ),
    (
        "a simulation on a silo's machine",
        FILE,
        "    _refuse_at_a_silo()\n",
        "",
        SIMULATION,
    ),
    (
        "a simulation that leaves its records",
        FILE,
        "            shutil.rmtree(made, ignore_errors=True)\n",
        "            pass\n",
        SIMULATION,
    ),
    (
        "a simulation that goes to the job's MLflow server",
        FILE,
        'tracking | {"uri": sqlite_uri(place / "mlflow.db")}',
        '{"uri": sqlite_uri(place / "mlflow.db")} | tracking',
        SIMULATION,
    ),
    (
        "a folder of records that others can enter",
        FILE,
        'own = Path(tempfile.mkdtemp(prefix=f"{job_file.job.name}-", dir=place))  # mode 0700\n',
        'own = place / f"{job_file.job.name}-{os.getpid()}"\n        own.mkdir(mode=0o755)\n',
        SIMULATION,
    ),
    (
        "a statement that hides a simulation",
        "platform/privacy/statement.py",
        '        trust = {"simulation": SIMULATED} | trust\n',
        "        pass\n",
        INTERFACE,
    ),
    (
        "a value in an error in Python",
        "pipelines/interface/training.py",
        "        raise without_values(error) from None\n",
        "        raise\n",
        SIMULATION,
    ),
    (
        "markup in the table of a run",
        "pipelines/interface/run.py",
        "{escape(text)}</td>",
        "{text}</td>",
        INTERFACE,
    ),
    # -- silos that share a process
    (
        "silos that share a process on an owner's machine",
        "actors/admission.py",
        "        if owner and spec.job.simulation:\n",
        "        if False:\n",
        SHARED,
    ),
    (
        "silos that share a process beside owners' machines",
        "actors/placement.py",
        "    if offers_silo(offered):\n        pinned_ones",
        "    if False:\n        pinned_ones",
        ON_RAY,
    ),
    (
        "simulated silos behind a coordinator",
        "actors/separate/cluster.py",
        "        if simulated := [name for name, spec in specs.items() if spec.job.simulation]:\n",
        "        if simulated := list[str]():\n",
        ON_RAY,
    ),
    (
        "a simulation that is proposed to owners",
        "pipelines/consortium/job.py",
        "    if job.simulation:\n",
        "    if False:\n",
        "tests/pipelines/consortium/test_coordinator.py",
    ),
    (
        "a silo that sends after its end",
        "actors/shared_process.py",
        "        if self._ended.is_set():\n            raise Killed\n",
        "",
        SHARED,
    ),
    (
        "a silo that is kept after its end",
        "actors/shared_process.py",
        "self._silos.pop(silo, None)",
        "self._silos.get(silo)",
        SHARED,
    ),
    (
        "any attribute of a silo in a shared process",
        "actors/shared_process.py",
        "        if method not in self._calls:\n",
        "        if False:\n",
        SHARED,
    ),
    (
        "a run that hides that silos shared a process",
        "pipelines/run/output.py",
        "    if job.simulated:\n        found.insert(0, job.simulated)\n",
        "",
        SHARED_RUN,
    ),
    (
        "a statement that hides that silos shared a process",
        "platform/privacy/statement.py",
        '        trust = {"simulation": job.simulated} | trust\n',
        "        pass\n",
        SHARED_RUN,
    ),
    (
        "a part of a contribution replaced beside its digest",
        "he/keys.py",
        "{**self.digests, **computed}",
        "{**computed, **self.digests}",
        "tests/he/test_keys.py",
    ),
)
