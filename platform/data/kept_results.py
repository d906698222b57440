"""What a silo computed from its table before, kept in its own state folder by content.

An entry is found by everything that it was computed from: the columns' content, the settings, and
the versions of RDKit and of the computation. It is written whole or not at all, mode 0600 in a
folder of mode 0700, and begins with an HMAC-SHA256 of its content and of what it was computed from.
The HMAC's key is random and lies in the same folder, so that names of entries confirm no guess of a
table to someone who sees a listing or a backup without the key, and an entry of another silo, or
one that was damaged or exchanged, is not used. What is not used is computed again, so that a fault
here costs time and nothing else. Together, entries take at most MOST_BYTES; those that were not
used for longest are removed first.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from blindsum.platform.errors import DataError

FOLDER = "ready"
MOST_BYTES = 2**30
"""A million fingerprints of 1,024 bits and their scaffolds take about a tenth of it."""

_KEY = "key"
_MAC_BYTES = 32
_ABANDONED_S = 3600.0


class KeptResults:
    """The results that one silo keeps.

    Args:
        state: the silo's state folder.
        most_bytes: the most bytes that all entries together may take.
    """

    def __init__(self, state: Path, most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._most_bytes = state / FOLDER, most_bytes
        self._key: bytes | None = None

    def read(self, inputs: Sequence[str], schema: pa.Schema, rows: int) -> pa.Table | None:
        """Return what was kept for these inputs; None if there is nothing that can be used.

        Args:
            inputs: everything that the result depends on, and what it is.
            schema, rows: those that it must have.
        """
        with suppress(OSError):
            key = self._opened()
            path = self._path(key, inputs)
            content = _own_file(path)
            if content is None:
                return None
            mac, content = content[:_MAC_BYTES], content[_MAC_BYTES:]
            found = None
            if hmac.compare_digest(mac, _mac(key, inputs, content)):
                with suppress(pa.ArrowException, OSError, ValueError):
                    found = pa.ipc.open_stream(content).read_all()
            if found is not None and found.schema == schema and found.num_rows == rows:
                os.utime(path)
                return found
            path.unlink(missing_ok=True)
        return None

    def write(self, inputs: Sequence[str], result: pa.Table) -> None:
        """Keep a result. A folder that cannot be written is no reason to fail."""
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(sink, result.schema, options=options) as writer:
            writer.write_table(result)
        content = sink.getvalue().to_pybytes()
        if len(content) + _MAC_BYTES > self._most_bytes:
            return
        with suppress(OSError):
            key = self._opened()
            _write_whole(self._path(key, inputs), _mac(key, inputs, content) + content)
            self._make_room()

    @property
    def folder(self) -> Path:
        """The folder of the entries."""
        return self._folder

    def held(self) -> tuple[int, int]:
        """Return how many entries there are, and their bytes together."""
        sizes = [path.stat().st_size for path in self._entries()]
        return len(sizes), sum(sizes)

    def clear(self) -> None:
        """Remove all entries, and the key under which they were found.

        Raises:
            DataError: some cannot be removed.
        """
        try:
            for path in self._entries("*.arrow", "*.partial", _KEY):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(
                f"what was kept in {self._folder} cannot be removed ({error.strerror})"
            ) from None
        self._key = None

    def _entries(self, *names: str) -> list[Path]:
        """Return the files of those names; none behind a link, which leads to somebody else's."""
        if self._folder.is_symlink():
            return []
        return [path for name in names or ("*.arrow",) for path in self._folder.glob(name)]

    def _make_room(self) -> None:
        left = self._most_bytes
        entries = [(path.stat(), path) for path in self._folder.glob("*.arrow")]
        for found, path in sorted(entries, key=lambda one: one[0].st_mtime_ns, reverse=True):
            left -= found.st_size
            if left < 0:
                path.unlink(missing_ok=True)
        for path in self._folder.glob("*.partial"):  # of processes that were killed
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink(missing_ok=True)

    def _opened(self) -> bytes:
        """Return the key of the folder, both made if they are missing. Raises OSError if the folder
        is not this user's own."""
        if self._key is None:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = self._folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise PermissionError
            self._folder.chmod(0o700)
            self._key = self._read_key() or self._made_key()
        return self._key

    def _read_key(self) -> bytes | None:
        key = _own_file(self._folder / _KEY)
        return key if key and len(key) == _MAC_BYTES else None

    def _made_key(self) -> bytes:
        place = self._folder / _KEY
        place.unlink(missing_ok=True)  # one that another could read or write protects nothing
        partial = place.with_suffix(f".{secrets.token_hex(8)}.partial")
        try:
            _write(partial, secrets.token_bytes(_MAC_BYTES))
            with suppress(FileExistsError):  # another process of this silo was first
                os.link(partial, place)
        finally:
            partial.unlink(missing_ok=True)
        key = self._read_key()
        if key is None:
            raise FileNotFoundError
        return key

    def _path(self, key: bytes, inputs: Sequence[str]) -> Path:
        return self._folder / f"{_mac(key, inputs, b'').hex()}.arrow"


def content_digest(table: pa.Table) -> str:
    """Return a digest of a table's columns and values as they lie in memory. Unlike a fingerprint,
    it may differ for equal records, and then costs a computation; it is quick."""
    digest = hashlib.sha256()

    class Sink:
        closed = False

        def write(self, content: bytes) -> int:
            digest.update(content)
            return len(content)

        def flush(self) -> None:
            """There is nothing to flush."""

        def close(self) -> None:
            """There is nothing to close."""

    with pa.ipc.new_stream(pa.PythonFile(Sink(), mode="w"), table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return digest.hexdigest()


def _mac(key: bytes, inputs: Sequence[str], content: bytes) -> bytes:
    of_inputs = hashlib.sha256(json.dumps(list(inputs)).encode()).digest()
    made = hmac.new(key, of_inputs, "sha256")
    made.update(content)
    return made.digest()


def _own_file(path: Path) -> bytes | None:
    """Return the content of a file that this user alone can read and write. Any other is removed,
    and None returned."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError:  # a link
        path.unlink(missing_ok=True)
        return None
    with open(opened, "rb") as file:
        found = os.fstat(opened)
        own = found.st_uid == os.getuid() and not found.st_mode & 0o077
        if own and stat.S_ISREG(found.st_mode):
            return file.read()
    path.unlink(missing_ok=True)
    return None


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_suffix(f".{secrets.token_hex(8)}.partial")
    try:
        _write(partial, content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    opened = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with open(opened, "wb") as file:
        file.write(content)
