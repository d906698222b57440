"""Faults in how models begin and what of them is trained, as `tests/mutants.py` plants them."""

FOLDER = "platform/training"
BUFFERS = "tests/platform/test_buffers.py"
ADAPTERS = "tests/platform/test_adapters.py"
FOLDERS = "tests/platform/test_hugging_face.py"

IN_MODELS = (
    (
        "a model with running state",
        f"{FOLDER}/buffers.py",
        "if a is None or b is None or not _same(a, b):",
        "if False:",
        BUFFERS,
    ),
    (
        "running state that begins late",
        f"{FOLDER}/local.py",
        "update = self._contribute(start)\n        self._constants.require_unchanged()\n",
        "update = self._contribute(start)\n",
        BUFFERS,
    ),
    (
        "constants that differ between silos",
        f"{FOLDER}/buffers.py",
        "    if not buffers:\n        return of_parameters\n",
        "    return of_parameters\n",
        BUFFERS,
    ),
    (
        "adapters that a prediction reads past",
        f"{FOLDER}/adapters.py",
        "        layer.register_forward_hook(_seen)\n",
        "        pass\n",
        ADAPTERS,
    ),
    (
        "adapters that are not used",
        f"{FOLDER}/adapters.py",
        "if unused := sorted(",
        "if False and sorted(",
        ADAPTERS,
    ),
    (
        "another folder than the job's",
        "platform/job/paths.py",
        "if folder.is_dir() and folder_digest(folder) == sha256:",
        "if folder.is_dir():",
        FOLDERS,
    ),
    (
        "a model that may run its authors' way",
        f"{FOLDER}/hugging_face.py",
        '        config._attn_implementation = "eager"\n',
        "",
        FOLDERS,
    ),
    (
        "weights of an owner's dataset",
        "pipelines/comparison/public_trunk.py",
        "if owner := find_owner():",
        "if False and (owner := find_owner()):",
        "tests/pipelines/test_public_trunk.py",
    ),
    (
        "features chosen on an owner's dataset",
        "pipelines/selection/public_records.py",
        "if owner := find_owner():",
        "if False and (owner := find_owner()):",
        "tests/pipelines/test_features.py",
    ),
    (
        "Hugging Face with a network",
        f"{FOLDER}/optional_packages.py",
        'os.environ[variable] = "1"',
        "pass",
        FOLDERS,
    ),
)
