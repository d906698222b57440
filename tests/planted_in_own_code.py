"""Faults in how a job's own code is treated, as `tests/mutants.py` plants them: name, file, old,
new, tests."""

LOSS, DATASET = "tests/platform/test_own_loss.py", "tests/platform/test_own_features.py"
TOKENIZER = "tests/platform/test_tokenizer_file.py"
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
    (
        "another tokenizer than the job's",
        "platform/data/tokenizer_file.py",
        "    if hashlib.sha256(content).hexdigest() != section.sha256:\n",
        "    if False:\n",
        TOKENIZER,
    ),
    (
        "a tokenizer that is too large",
        "platform/data/tokenizer_file.py",
        "path is None or path.stat().st_size > MOST_BYTES:\n",
        "path is None:\n",
        TOKENIZER,
    ),
    (
        "a vocabulary that fills the memory",
        "platform/data/tokenizer_file.py",
        "    if not 1 <= vocabulary <= MOST_TOKENS:\n",
        "    if False:\n",
        TOKENIZER,
    ),
    (
        "texts that are padded to the longest of a batch",
        "platform/data/tokenizer_file.py",
        "        found.no_padding()  # texts would depend on others that are tokenized with them\n",
        "",
        TOKENIZER,
    ),
    (
        "texts that are split by chance",
        "platform/data/tokenizer_file.py",
        "    if dropout:\n",
        "    if False:\n",
        TOKENIZER,
    ),
    (
        "a text in the error of a tokenizer",
        "platform/data/tokenizer_file.py",
        "        raise error(type(fault).__name__) from None\n",
        "        raise error(str(fault)) from None\n",
        TOKENIZER,
    ),
    (
        "attention to the places after a text's end",
        "platform/training/sequences.py",
        "src_key_padding_mask=~there)",
        "src_key_padding_mask=None)",
        TOKENIZER,
    ),
)
