"""Faults in how a job's own code is treated, as `tests/mutants.py` plants them: name, file, old,
new, tests."""

LOSS = "tests/platform/test_own_loss.py"
DRIVER = "tests/adversary/test_lying_driver.py"

IN_OWN_CODE = (
    (
        "a loss that mixes records",
        "platform/training/own_loss.py",
        "        if not same or bool(gradient[others].any()):\n",
        "        if False:\n",
        LOSS,
    ),
    (
        "a loss that sees the whole batch",
        "platform/training/own_loss.py",
        '            found: Tensor = vmap(self._of_one, randomness="different")(outputs, labels)\n',
        "            found: Tensor = self._function(outputs, labels)\n",
        LOSS,
    ),
    (
        "labels in the error of a loss",
        "platform/training/own_loss.py",
        'failed with {type(error).__name__} on records of a silo"',
        'failed with {error!r} on records of a silo"',
        LOSS,
    ),
    (
        "workers that import other code than the approved",
        "actors/workers/worker.py",
        '        if said["code"]:\n',
        "        if False:\n",
        DRIVER,
    ),
)
