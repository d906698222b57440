"""A `tokenizer.json` that a job names: found on this machine or carried by a released model.

It is data from a stranger. It is known by its digest, of limited size, and read by the library
`tokenizers`, which runs no code of it; what that library cannot read is refused. Nothing is ever
downloaded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from blindsum.platform.errors import DataError, ModelError
from blindsum.platform.job.paths import WEIGHTS, home_folder, public_file
from blindsum.platform.job.text_section import TokenizerFile

T = TypeVar("T")

MOST_BYTES = 64 * 2**20
MOST_TOKENS = 2**20
"""The largest vocabulary: each of its tokens has a row of parameters in the model."""

TEXTS_AT_A_TIME = 1000

_KNOWN: dict[str, TextTokenizer] = {}
"""What this process has read, by digest."""


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer that was read.

    Attributes:
        content: its file's.
        vocabulary: one more than its greatest id.
    """

    content: bytes = field(repr=False)
    vocabulary: int
    tokenizer: Any = field(repr=False)

    def ids(self, texts: Sequence[str], length: int, cores: int = 1) -> list[npt.NDArray[np.int32]]:
        """Return the first `length` ids of each text, with the special tokens that the file adds.

        Raises:
            DataError: it fails, or gives an id that is not in its vocabulary.
        """
        os.environ.setdefault("RAYON_NUM_THREADS", str(cores))  # read when it is first used
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if cores > 1 else "false")
        found = list[npt.NDArray[np.int32]]()
        for start in range(0, len(texts), TEXTS_AT_A_TIME):
            part = list(texts[start : start + TEXTS_AT_A_TIME])
            for one in _guarded(lambda: self.tokenizer.encode_batch(part), _failed):  # noqa: B023
                ids = np.array(one.ids[:length], np.int64)
                if ids.max(initial=0) >= self.vocabulary:
                    raise DataError(
                        "the tokenizer of data.features gives an id that is not in its vocabulary",
                        "Its file is damaged: agree on another one.",
                    )
                found.append(ids.astype(np.int32))
        return found


def text_tokenizer(section: TokenizerFile) -> TextTokenizer:
    """Return a job's tokenizer, read once in a process.

    Raises:
        ModelError: there is no such file with that digest, it is not one that can be used, or the
            library is not installed.
    """
    if section.sha256 not in _KNOWN:
        path = public_file(section.file, section.sha256)
        if path is None or path.stat().st_size > MOST_BYTES:
            raise ModelError(
                f"there is no file {section.file} with the SHA-256 {section.sha256[:16]}... of "
                "data.features.tokenizer"
                if path is None
                else f"{section.file} has more than {MOST_BYTES >> 20} MB",
                f"Put it beside the job file, or in {home_folder() / WEIGHTS} on this machine."
                if path is None
                else "Agree on a smaller tokenizer.",
            )
        take_tokenizer(section, path.read_bytes())
    return _KNOWN[section.sha256]


def take_tokenizer(section: TokenizerFile, content: bytes) -> None:
    """Read a tokenizer from its file's content, for `text_tokenizer`.

    Raises:
        ModelError: it is not the one with that digest, it cannot be used, or the library is not
            installed.
    """
    if hashlib.sha256(content).hexdigest() != section.sha256:
        raise ModelError(f"{section.file} is not the tokenizer of data.features.tokenizer")
    _KNOWN[section.sha256] = _read(section.file, content)


def _read(name: str, content: bytes) -> TextTokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ModelError(
            "data.features.tokenizer needs the package tokenizers, which is not installed",
            "Install it: pip install 'blindsum[tokenizers]'.",
        ) from None

    def read() -> tuple[Any, int, Any]:
        found = Tokenizer.from_str(content.decode())
        found.no_truncation()
        found.no_padding()  # texts would depend on others that are tokenized with them
        ids = found.get_vocab(with_added_tokens=True).values()
        return found, max(ids, default=-1) + 1, getattr(found.model, "dropout", None)

    tokenizer, vocabulary, dropout = _guarded(read, lambda kind: _unreadable(name, kind))
    if not 1 <= vocabulary <= MOST_TOKENS:
        raise ModelError(
            f"{name} has ids up to {vocabulary - 1:,}: a vocabulary has 1 to {MOST_TOKENS:,}",
            "Agree on another tokenizer.",
        )
    if dropout:
        raise ModelError(
            f"{name} splits texts by chance (dropout): a record would not always be the same",
            "Set model.dropout in it to null, and the new digest in the job.",
        )
    return TextTokenizer(content, vocabulary, tokenizer)


def _guarded(call: Callable[[], T], error: Callable[[str], Exception]) -> T:
    """Call the library. Its faults are of many kinds, some of them no Exception: a panic of Rust.

    Raises:
        Exception: what `error` makes of a fault's kind. What it says may quote a text.
    """
    try:
        return call()
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as fault:  # noqa: BLE001
        raise error(type(fault).__name__) from None


def _unreadable(name: str, kind: str) -> ModelError:
    return ModelError(
        f"{name} is no tokenizer that the installed library tokenizers can read ({kind})",
        "It must be a tokenizer.json as that library saves it.",
    )


def _failed(kind: str) -> DataError:
    return DataError(
        f"the tokenizer of data.features fails on a text ({kind})", "Agree on another tokenizer."
    )
