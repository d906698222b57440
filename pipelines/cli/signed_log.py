"""Verify and export a silo's append-only files: its ledger and its audit log."""

from __future__ import annotations

import json
from pathlib import Path

from blindsum.he.identity import fingerprint
from blindsum.pipelines.show.console import console, show_result
from blindsum.platform.errors import LedgerError
from blindsum.platform.state.signed_log import Chain


def verify(chain: Chain, head: str | None, kept_in: str) -> None:
    """Check every hash and signature; print who signed.

    Args:
        head: a head noted earlier, which the chain must still contain.
        kept_in: where to find earlier heads, in words.

    Raises:
        LedgerError: a hash, a signature or the head does not match; names the first bad entry.
    """
    found = chain.verify(thorough=True, head=head)
    show_result(f"{found.entries} entries; all hashes and signatures are valid")
    if found.unsigned:
        show_result(f"the oldest {found.unsigned} are unsigned; the first signature covers them")
    for public in found.signers:
        show_result(f"signed by {fingerprint(public)}", soft_wrap=True)
    if head is None:
        console.print(
            f"to check that no newer entries were removed, pass --head, taken from {kept_in}"
        )


def export(chain: Chain, called: str, path: Path, to: Path) -> None:
    """Write all entries with hashes, signatures and signers to a new JSON file.

    Raises:
        LedgerError: the file already exists or cannot be written.
    """
    entries = chain.export()
    content = json.dumps({called: str(path), "entries": entries}, indent=1)
    try:
        with to.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        raise LedgerError(f"{to} already exists", "Name another file.") from None
    except OSError as error:
        raise LedgerError(f"{to} cannot be written: {error.strerror}") from None
    count = len(entries)
    console.print(
        f"wrote {count} {'entry' if count == 1 else 'entries'} of the {called} {path} to {to}, "
        "with hashes, signatures and signers",
        soft_wrap=True,
    )
