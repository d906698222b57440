"""The consortium's secret: 256 random bits that every silo has, but no server and no job file.

It keys folds and the order of fingerprint bits by HMAC-SHA256. The order hides which substructure
an input of the model represents from anyone who has only the model. This is obfuscation and no
more: anyone who also knows how often bits occur in public molecules can identify many of them.
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
    """The secret key. Its repr does not show it."""

    key: bytes = field(repr=False)

    def number(self, purpose: str, text: str) -> int:
        """Return a 64-bit number that looks random to anyone without the key."""
        tag = hmac.new(self.key, f"{purpose}\0{text}".encode(), "sha256").digest()
        return int.from_bytes(tag[:8], "big")

    def fold(self, scaffold: str, count: int) -> int:
        """Return the fold of a scaffold, 0 to count - 1."""
        return self.number("fold", scaffold) * count >> 64

    def order(self, bits: int) -> npt.NDArray[np.int64]:
        """Return the new position of every bit, a permutation, int64 [bits]."""
        tags = [self.number("bit", str(bit)) for bit in range(bits)]
        places = np.empty(bits, np.int64)
        places[sorted(range(bits), key=lambda bit: (tags[bit], bit))] = np.arange(bits)
        return places

    @property
    def digest(self) -> str:
        """A digest that shows whether two silos have the same secret. It reveals nothing else,
        because the secret has 256 random bits."""
        return f"{self.number('digest', ''):016x}"


def make_secret(path: Path) -> None:
    """Write a new secret, with mode 0600.

    Raises:
        KeyRefused: the file already exists or cannot be written.
    """
    try:
        opened = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with open(opened, "w", encoding="ascii") as file:
            file.write(f"{secrets.token_hex(32)}\n")
    except FileExistsError:
        raise KeyRefused(f"{path} already exists", "Name another file.") from None
    except OSError as error:
        raise KeyRefused(f"{path} cannot be written: {error.strerror}") from None


def read_secret(path: Path) -> Secret:
    """Read a secret.

    Raises:
        KeyRefused: the file cannot be read, other users can read it, or it is not a secret.
    """
    hint = "One silo makes it with: blindsum secret FILE. Send the file to the others securely."
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        raise KeyRefused(f"the consortium's secret {path} cannot be read", hint) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyRefused(
            f"other users can read the consortium's secret {path}", f"Run: chmod 600 {path}"
        )
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise KeyRefused(f"{path} is not a secret of 64 hexadecimal digits", hint)
    return Secret(key)
