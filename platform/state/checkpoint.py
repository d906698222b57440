"""What a silo needs to go on with an interrupted run: its newest rounds, in its own state folder.

    runs/RUN/round-N.state           model and server optimizer after round N, the private head, and in runs
                                     without privacy the state of the random numbers: SHA-256 of a
                                     NumPy archive, and the archive

A file is whole or not there; the two newest are kept, and none once the run has ended well. The state of
a cryptographic generator is never written: a continued run draws fresh noise. Keys are not written
either: a continued run has a key ceremony of its own, under the same identities.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from blindsum.platform.errors import DataError, FederationError
from blindsum.platform.training.models import Vector, digest

_DIGEST = 32


@dataclass(frozen=True)
class Checkpoint:
    """A silo after a round. `optimizer` and `head` are arrays; `random` the state of a seeded generator
    and of torch's, None under privacy; `range` and `clipping` are of the next round. Private to the
    silo."""

    round: int
    model: Vector
    optimizer: tuple[npt.NDArray[np.float64], ...]
    head: tuple[npt.NDArray[np.float32], ...]
    random: dict[str, Any] | None
    range: float = 0.0
    clipping: float = 1.0

    def __repr__(self) -> str:
        return f"Checkpoint(round {self.round}, private)"


def state_of(generator: np.random.Generator) -> dict[str, Any]:
    """Of a seeded generator and of torch, as JSON takes it."""
    return {
        "numpy": generator.bit_generator.state,
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }


def set_state(generator: np.random.Generator, state: dict[str, Any]) -> None:
    """Both go on where they were."""
    generator.bit_generator.state = state["numpy"]
    content = np.frombuffer(bytes.fromhex(state["torch"]), np.uint8)
    torch.set_rng_state(torch.from_numpy(content.copy()))


class Checkpoints:
    """The newest rounds of one run.

    Args:
        folder: of this run, in the silo's state folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def rounds(self) -> dict[int, str]:
        """Digests of the models that can be read, by round."""
        found = {}
        for path in sorted(self._folder.glob("round-*.state")):
            number = re.fullmatch(r"round-(\d+)", path.stem)
            if number and (kept := self._read(path)):
                found[kept.round] = digest(kept.model)
        return found

    def write(self, checkpoint: Checkpoint) -> None:
        """Keep a round, mode 0600, and drop all but the newest.

        Raises:
            DataError: there is no room.
        """
        arrays: dict[str, Any] = {"model": checkpoint.model}
        arrays |= {f"optimizer_{i}": one for i, one in enumerate(checkpoint.optimizer)}
        arrays |= {f"head_{i}": one for i, one in enumerate(checkpoint.head)}
        said = {
            "round": checkpoint.round,
            "optimizer": len(checkpoint.optimizer),
            "head": len(checkpoint.head),
            "random": checkpoint.random,
            "range": checkpoint.range,
            "clipping": checkpoint.clipping,
        }
        content = io.BytesIO()
        np.savez(content, said=np.frombuffer(json.dumps(said).encode(), np.uint8), **arrays)
        path = self._path(checkpoint.round)
        partial = path.with_suffix(".partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial.unlink(missing_ok=True)
            opened = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with open(opened, "wb") as file:
                file.write(hashlib.sha256(content.getbuffer()).digest())
                file.write(content.getbuffer())
            partial.replace(path)
            for old in self._folder.glob("round-*.state"):
                number = re.fullmatch(r"round-(\d+)", old.stem)
                if number and int(number[1]) not in (checkpoint.round, checkpoint.round - 1):
                    old.unlink(missing_ok=True)  # silos may be one round apart, and no more
        except OSError as error:
            raise DataError(
                f"this silo's checkpoint cannot be written in {self._folder}: "
                f"{os.strerror(error.errno or 0)}",
                "Make room there, or set silos.state to another folder.",
            ) from None

    def read(self, round: int) -> Checkpoint:
        """One that `rounds` names.

        Raises:
            FederationError: it is not there, or damaged.
        """
        found = self._read(self._path(round))
        if found is None:
            raise FederationError(
                f"this silo has no state after round {round} in {self._folder}",
                "Put it back from a backup, or start a new run.",
            )
        return found

    def drop(self) -> None:
        """The run has ended well. Removes what `write` wrote, file by file, and nothing else."""
        with suppress(OSError):
            for path in self._folder.iterdir():
                if re.fullmatch(r"round-\d+\.(state|partial)", path.name):
                    path.unlink(missing_ok=True)
            self._folder.rmdir()  # unless it holds the silo's own model

    def _path(self, round: int) -> Path:
        return self._folder / f"round-{round}.state"

    def _read(self, path: Path) -> Checkpoint | None:
        try:
            whole = path.read_bytes()
            if hashlib.sha256(whole[_DIGEST:]).digest() != whole[:_DIGEST]:
                return None
            with np.load(io.BytesIO(whole[_DIGEST:]), allow_pickle=False) as file:
                said = json.loads(file["said"].tobytes())
                found = Checkpoint(
                    said["round"],
                    file["model"],
                    tuple(file[f"optimizer_{i}"] for i in range(said["optimizer"])),
                    tuple(file[f"head_{i}"] for i in range(said["head"])),
                    said["random"],
                    said["range"],
                    said["clipping"],
                )
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None
        return found
