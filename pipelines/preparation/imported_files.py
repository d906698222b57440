"""The files that an import writes, each completely or not at all, with mode 0600."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from blindsum.platform.errors import DataError
from blindsum.platform.job.yaml_reader import dump

SILOS = ("silo-a", "silo-b", "silo-c")
"""The names of silos in a job file, if none are given."""

_HEAD = """\
# Written by blindsum import. Before it runs: name the silos and their tables, and choose rounds,
# expected_batch_size (about sampling_rate times a silo's records) and the budget. docs/job-file.md
# explains every key. For comparison with training without privacy: privacy: {noise: none}
"""

_TRAINING: dict[str, Any] = {
    "model": {"kind": "mlp", "hidden": [64], "activation": "relu"},
    "training": {
        "rounds": 100,
        "local_steps": 1,
        "sampling_rate": 0.02,
        "expected_batch_size": 1000,
        "learning_rate": 1.0,
    },
    "server": {"optimizer": "momentum", "learning_rate": 0.3},
    "privacy": {"noise": "shared", "epsilon": 8, "delta": 1e-6, "clip_norm": 1.0},
}


def job_text(name: str, silos: Sequence[str], data: Mapping[str, Any], private: bool) -> str:
    """Return a job file. Each silo's files lie in a folder of its name next to it.

    Args:
        silos: their names, SILOS if there are none.
        data: the section `data`.
        private: whether silos have private tasks.
    """
    names = {"data": "records.parquet"}
    if private:
        names["private_tasks"] = "private_tasks.yaml"
    content = {
        "name": name,
        "seed": 1,
        "silos": [
            {"name": silo, **{key: f"{silo}/{file}" for key, file in names.items()}}
            for silo in silos or SILOS
        ],
        "data": dict(data),
        **_TRAINING,
    }
    return _HEAD + dump(content)


def new_folder(folder: Path, names: Sequence[str]) -> None:
    """Make a folder for files with those names.

    Raises:
        DataError: one of them is already there, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if there := [name for name in names if (folder / name).exists()]:
            raise DataError(f"{folder} already has {', '.join(there)}", "Name another folder.")
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}") from None


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write texts to new files of a folder.

    Raises:
        DataError: a file is already there, or cannot be written; then none is left.
    """
    new_folder(folder, list(texts))
    written = list[Path]()
    try:
        for name, text in texts.items():
            path = folder / name
            opened = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            written.append(path)
            with open(opened, "w", encoding="utf-8") as file:
                file.write(text)
    except (OSError, UnicodeError) as error:
        for path in written:
            with suppress(OSError):
                path.unlink()
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise DataError(f"{folder} cannot be written: {reason}") from None
