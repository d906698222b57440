"""Checkpoints: a silo's newest rounds in its own state folder, from which a run can be resumed.

    runs/RUN/round-N.state           model, average and server optimizer after round N, the private
                                     head and its average, and in runs without privacy the state of
                                     the random generators: the SHA-256 of a NumPy archive, then
                                     the archive

A file is complete or absent. The two newest are kept, and all are removed once the run has
completed. The state of a cryptographic generator is never written: a resumed run draws fresh noise.
Keys are not written either: a resumed run holds a new key ceremony, under the same identities. The
one exception is the key of identifiers of a job of overlaps, part of what it has for an optimizer:
its look-up needs the sketch's key.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch

from blindsum.platform.errors import DataError, FederationError
from blindsum.platform.training.average import Averaged
from blindsum.platform.training.vector import Vector, digest
from blindsum.platform.training.vector_room import IN_MEMORY, VectorRoom, blocks

_DIGEST = 32
_READ = 1 << 20  # bytes of a file that are read at a time


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A silo's state after a round. Private to the silo.

    `unsent` is what the silo's updates did not carry (`encryption.error_feedback`), None otherwise.
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
    unsent: Vector | None = None

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
        room: where the vectors lie that are read.
    """

    def __init__(self, folder: Path, room: VectorRoom = IN_MEMORY) -> None:
        self._folder, self._room = folder, room

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
        path = self._path(checkpoint.round)
        partial = path.with_suffix(".partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial.unlink(missing_ok=True)
            opened = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            with open(opened, "w+b") as file:
                _write(checkpoint, file)
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
            with path.open("rb") as file:
                return _read(file, self._room)
        except OSError:
            return None


def to_bytes(checkpoint: Checkpoint) -> bytes:
    """Return a checkpoint as bytes: the SHA-256 of a NumPy archive, then the archive."""
    content = io.BytesIO()
    _write(checkpoint, content)
    return content.getvalue()


def from_bytes(whole: bytes, room: VectorRoom = IN_MEMORY) -> Checkpoint | None:
    """Return the checkpoint that `to_bytes` wrote; None if the bytes are not that."""
    return _read(io.BytesIO(whole), room)


def _write(checkpoint: Checkpoint, file: IO[bytes]) -> None:
    average = checkpoint.average
    arrays: dict[str, Any] = {"model": checkpoint.model, "average": average.shared}
    arrays |= {f"optimizer_{i}": one for i, one in enumerate(checkpoint.optimizer)}
    arrays |= {f"head_{i}": one for i, one in enumerate(checkpoint.head)}
    arrays |= {f"head_average_{i}": one for i, one in enumerate(average.head)}
    if checkpoint.unsent is not None:
        arrays["unsent"] = checkpoint.unsent
    said = {
        "round": checkpoint.round,
        "optimizer": len(checkpoint.optimizer),
        "head": len(checkpoint.head),
        "head_average": len(average.head),
        "random": checkpoint.random,
        "range": checkpoint.range,
        "clipping": checkpoint.clipping,
    }
    file.write(bytes(_DIGEST))
    arrays["said"] = np.frombuffer(json.dumps(said).encode(), np.uint8)
    with zipfile.ZipFile(file, "w") as archive:  # as numpy.savez, but a block at a time
        for name, one in arrays.items():
            whole = np.ascontiguousarray(one)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                head = np.lib.format.header_data_from_array_1_0(whole)
                np.lib.format.write_array_header_1_0(entry, head)
                flat = whole.reshape(-1)
                for where in blocks(flat.size, one):
                    entry.write(flat[where].data)
    found = _digest_of_rest(file)
    file.seek(0)
    file.write(found)


def _digest_of_rest(file: IO[bytes]) -> bytes:
    found = hashlib.sha256()
    file.seek(_DIGEST)
    while part := file.read(_READ):
        found.update(part)
    return found.digest()


def _read(file: IO[bytes], room: VectorRoom) -> Checkpoint | None:
    said_digest = file.read(_DIGEST)
    if _digest_of_rest(file) != said_digest:
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            arrays = _Arrays(archive, room)
            said = json.loads(arrays["said"].tobytes())
            return Checkpoint(
                round=said["round"],
                model=arrays["model"],
                average=Averaged(
                    shared=arrays["average"],
                    head=tuple(arrays[f"head_average_{i}"] for i in range(said["head_average"])),
                ),
                optimizer=tuple(arrays[f"optimizer_{i}"] for i in range(said["optimizer"])),
                head=tuple(arrays[f"head_{i}"] for i in range(said["head"])),
                random=said["random"],
                range=said["range"],
                clipping=said["clipping"],
                unsent=arrays.get("unsent"),
            )
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


class _Arrays:
    """The arrays of a NumPy archive, each read when it is asked for.

    numpy.load would read the whole of a long one into memory, where it does not need to be.
    """

    def __init__(self, archive: zipfile.ZipFile, room: VectorRoom) -> None:
        self._archive, self._room = archive, room

    def get(self, name: str) -> npt.NDArray[Any] | None:
        return self[name] if f"{name}.npy" in self._archive.namelist() else None

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        entry = self._archive.getinfo(f"{name}.npy")
        with self._archive.open(entry) as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("an array of another format")
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
            values = math.prod(shape)
            # What the file says about itself must not decide how much memory it gets.
            whole = file.tell() + values * dtype.itemsize == entry.file_size
            if by_columns or dtype.hasobject or not whole:
                raise ValueError("an array of another size than its content")
            found = self._room.zeros(values, dtype)
            content, at = found.view(np.uint8), 0
            while part := file.read(_READ):
                content[at : at + len(part)] = np.frombuffer(part, np.uint8)
                at += len(part)
        return found.reshape(shape)
