"""Faults in simulations and in what Python shows, as `tests/mutants.py` plants them: name, file,
old, new, tests."""

SIMULATION, INTERFACE = "tests/pipelines/test_simulation.py", "tests/pipelines/test_interface.py"
FILE = "pipelines/interface/simulation.py"

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
)
