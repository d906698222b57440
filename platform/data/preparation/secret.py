"""The consortium's secret: 256 random bits that every silo has, and neither server nor job file.

It keys folds and the order of fingerprint bits by HMAC-SHA256. The order hides from who has the model
alone which substructure an input stands for. That is obfuscation and no more: who also knows how often
bits occur in public molecules can match many of them.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from blindsum.platform.errors import KeyRefused


@dataclass(frozen=True)
class Secret:
    """The key, never shown."""

    key: bytes = field(repr=False)

    def number(self, purpose: str, text: str) -> int:
        """A 64-bit number that looks random without the key."""
        tag = hmac.new(self.key, f"{purpose}\0{text}".encode(), "sha256").digest()
        return int.from_bytes(tag[:8], "big")

    def fold(self, scaffold: str, count: int) -> int:
        """The fold of a scaffold, 0 to count - 1."""
        return self.number("fold", scaffold) * count >> 64

    def order(self, bits: int) -> npt.NDArray[np.int64]:
        """Int64 [bits]: the new place of every bit, a permutation."""
        tags = [self.number("bit", str(bit)) for bit in range(bits)]
        places = np.empty(bits, np.int64)
        places[sorted(range(bits), key=lambda bit: (tags[bit], bit))] = np.arange(bits)
        return places

    @property
    def digest(self) -> str:
        """Tells whether two silos have the same secret, and with 256 random bits nothing else."""
        return f"{self.number('digest', ''):016x}"


def make_secret(path: Path) -> None:
    """Write a new secret, for its owner alone to read.

    Raises:
        KeyRefused: the file is there already or cannot be written.
    """
    try:
        opened = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with open(opened, "w", encoding="ascii") as file:
            file.write(f"{secrets.token_hex(32)}\n")
    except FileExistsError:
        raise KeyRefused(f"{path} is there already", "Name another file.") from None
    except OSError as error:
        raise KeyRefused(f"{path} cannot be written: {error.strerror}") from None


def read_secret(path: Path) -> Secret:
    """Raises KeyRefused: it cannot be read, others can read it, or it is none."""
    mend = "One silo makes it with: blindsum secret FILE; the others get the file by a safe way."
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        raise KeyRefused(f"the consortium's secret {path} cannot be read", mend) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyRefused(f"others may read the consortium's secret {path}", f"chmod 600 {path}")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise KeyRefused(f"{path} holds no secret: 64 hexadecimal digits", mend)
    return Secret(key)
