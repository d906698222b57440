"""Faults in how a job's own code is treated, as `tests/mutants.py` plants them: name, file, old,
new, tests."""

LOSS, DATASET = "tests/platform/test_own_loss.py", "tests/platform/test_own_features.py"
REVIEW = "tests/pipelines/consortium/test_review.py"
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
        "features that mix records",
        "platform/data/own_features.py",
        "        if not all(same) or not np.allclose(again, made[rows], rtol=1e-5, atol=1e-6):\n",
        "        if False:\n",
        DATASET,
    ),
    (
        "records that are missing because of others",
        "platform/data/own_features.py",
        "        if not all(same) or not np.",
        "        if not np.",
        DATASET,
    ),
    (
        "features that are made again of all records",
        "platform/data/own_features.py",
        "        every = np.arange(0, len(made), 2)\n",
        "        every = np.arange(len(made))\n",
        DATASET,
    ),
    (
        "records in the error of a dataset",
        "platform/data/own_features.py",
        '                reason = f"the dataset\'s item fails with {type(error).__name__}"\n',
        '                reason = f"the dataset\'s item fails with {error!r}"\n',
        DATASET,
    ),
    (
        "records in the error of a function that makes a dataset",
        "platform/data/own_features.py",
        '                f"failed with {type(error).__name__}",\n',
        '                f"failed with {type(error).__name__}: {error}",\n',
        DATASET,
    ),
    (
        "a table's other columns in a job's own dataset",
        "platform/data/own_features.py",
        "        chosen = table.select(list(self.section.columns)).combine_chunks()\n",
        "        chosen = table.combine_chunks()\n",
        DATASET,
    ),
    (
        "a review that runs a proposal's dataset",
        "pipelines/consortium/review.py",
        "if found and features and FEATURES in own_functions(job):",
        "if False:",
        REVIEW,
    ),
    (
        "the code of a dataset without an approval",
        "actors/approving.py",
        "            own_function(setting, named)\n",
        "            pass\n",
        REVIEW,
    ),
    (
        "workers that import other code than the approved",
        "actors/workers/worker.py",
        '        if said["code"]:\n',
        "        if False:\n",
        DRIVER,
    ),
)
