"""Checkpoints: a silo's newest rounds in its own state folder, from which a run can be resumed.

    runs/RUN/round-N.state           model, average and server optimizer after round N, the private
                                     head and its average, and in runs without privacy the state of
                                     the random generators: the SHA-256 of a NumPy archive, then
                                     the archive

A file is complete or absent. The two newest are kept, and all are removed once the run has
completed. The state of a cryptographic generator is never written: a resumed run draws fresh noise.
Keys are not written either: a resumed run holds a new key ceremony, under the same identities.
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
from blindsum.platform.training.average import Averaged
from blindsum.platform.training.vector import Vector, digest

_DIGEST = 32


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A silo's state after a round. Private to the silo.

    `average` is what the silo would release after that round; `optimizer` and `head` are arrays;
    `random` is the state of a seeded generator and of torch's, None in a private run; `range` and
    `clipping` apply to the next round.
    """

    round: int
    model: Vector
    average: Averaged
    optimizer: tuple[npt.NDArray[np.float64], ...]
    head: tuple[npt.NDArray[np.float32], ...]
    random: dict[str, Any] | None
    range: float = 0.0
    clipping: float = 1.0

    def __repr__(self) -> str:
        return f"Checkpoint(round {self.round}, private)"


def state_of(generator: np.random.Generator) -> dict[str, Any]:
    """Return the state of a seeded generator and of torch's generator, in a form fit for JSON."""
    return {
        "numpy": generator.bit_generator.state,
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }


def set_state(generator: np.random.Generator, state: dict[str, Any]) -> None:
    """Set a generator and torch's generator to a state from `state_of`."""
    generator.bit_generator.state = state["numpy"]
    content = np.frombuffer(bytes.fromhex(state["torch"]), np.uint8)
    torch.set_rng_state(torch.from_numpy(content.copy()))


class Checkpoints:
    """The checkpoints of one run's newest rounds.

    Args:
        folder: this run's folder in the silo's state folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def rounds(self) -> dict[int, str]:
        """Return the digests of model and average in all readable checkpoints, by round."""
        found = {}
        for path in sorted(self._folder.glob("round-*.state")):
            number = re.fullmatch(r"round-(\d+)", path.stem)
            if number and (kept := self._read(path)):
                found[kept.round] = digest(kept.model, kept.average.shared)
        return found

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, mode 0600, and remove all but the two newest.

        Raises:
            DataError: it cannot be written, for example because the disk is full.
        """
        content = to_bytes(checkpoint)
        path = self._path(checkpoint.round)
        partial = path.with_suffix(".partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial.unlink(missing_ok=True)
            opened = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with open(opened, "wb") as file:
                file.write(content)
            partial.replace(path)
            for old in self._folder.glob("round-*.state"):
                number = re.fullmatch(r"round-(\d+)", old.stem)
                if number and int(number[1]) not in (checkpoint.round, checkpoint.round - 1):
                    old.unlink(missing_ok=True)  # silos are at most one round apart
        except OSError as error:
            raise DataError(
                f"this silo's checkpoint cannot be written in {self._folder}: "
                f"{os.strerror(error.errno or 0)}",
                "Make room there, or set silos.state to another folder.",
            ) from None

    def read(self, round: int) -> Checkpoint:
        """Return the checkpoint of a round that `rounds` lists.

        Raises:
            FederationError: the file is missing or damaged.
        """
        found = self._read(self._path(round))
        if found is None:
            raise FederationError(
                f"this silo has no readable state after round {round} in {self._folder}",
                "Restore it from a backup, or start a new run.",
            )
        return found

    def drop(self) -> None:
        """Remove the files that `write` wrote, and no others, after a completed run."""
        with suppress(OSError):
            for path in self._folder.iterdir():
                if re.fullmatch(r"round-\d+\.(state|partial)", path.name):
                    path.unlink(missing_ok=True)
            self._folder.rmdir()  # fails, as it should, if the silo's own model is in it

    def _path(self, round: int) -> Path:
        return self._folder / f"round-{round}.state"

    def _read(self, path: Path) -> Checkpoint | None:
        try:
            return from_bytes(path.read_bytes())
        except OSError:
            return None


def to_bytes(checkpoint: Checkpoint) -> bytes:
    """Return a checkpoint as bytes: the SHA-256 of a NumPy archive, then the archive."""
    average = checkpoint.average
    arrays: dict[str, Any] = {"model": checkpoint.model, "average": average.shared}
    arrays |= {f"optimizer_{i}": one for i, one in enumerate(checkpoint.optimizer)}
    arrays |= {f"head_{i}": one for i, one in enumerate(checkpoint.head)}
    arrays |= {f"head_average_{i}": one for i, one in enumerate(average.head)}
    said = {
        "round": checkpoint.round,
        "optimizer": len(checkpoint.optimizer),
        "head": len(checkpoint.head),
        "head_average": len(average.head),
        "random": checkpoint.random,
        "range": checkpoint.range,
        "clipping": checkpoint.clipping,
    }
    content = io.BytesIO()
    np.savez(content, said=np.frombuffer(json.dumps(said).encode(), np.uint8), **arrays)
    return hashlib.sha256(content.getbuffer()).digest() + content.getvalue()


def from_bytes(whole: bytes) -> Checkpoint | None:
    """Return the checkpoint that `to_bytes` wrote; None if the bytes are not that."""
    if hashlib.sha256(whole[_DIGEST:]).digest() != whole[:_DIGEST]:
        return None
    try:
        with np.load(io.BytesIO(whole[_DIGEST:]), allow_pickle=False) as file:
            said = json.loads(file["said"].tobytes())
            return Checkpoint(
                round=said["round"],
                model=file["model"],
                average=Averaged(
                    shared=file["average"],
                    head=tuple(file[f"head_average_{i}"] for i in range(said["head_average"])),
                ),
                optimizer=tuple(file[f"optimizer_{i}"] for i in range(said["optimizer"])),
                head=tuple(file[f"head_{i}"] for i in range(said["head"])),
                random=said["random"],
                range=said["range"],
                clipping=said["clipping"],
            )
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
