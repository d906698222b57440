"""What a silo's owner does with an append-only file, be it the ledger or the audit log."""

from __future__ import annotations

import json
from pathlib import Path

from blindsum.he.identity import fingerprint
from blindsum.pipelines.show.console import console
from blindsum.platform.errors import LedgerError
from blindsum.platform.state.signed_log import Chain


def verify(chain: Chain, head: str | None, kept_in: str) -> None:
    """Check every hash and signature; print who signed.

    Args:
        head: one kept earlier, which must still be there.
        kept_in: where there are such heads.

    Raises:
        LedgerError: names the first entry that does not fit.
    """
    found = chain.verify(thorough=True, head=head)
    console.print(f"{found.entries} entries, every hash and signature holds")
    if found.unsigned:
        console.print(
            f"the oldest {found.unsigned} are unsigned; the first signature vouches for them"
        )
    for public in found.signers:
        console.print(f"signed by {fingerprint(public)}", soft_wrap=True)
    if head is None:
        console.print(f"whether newer entries were cut off shows --head, from {kept_in}")


def export(chain: Chain, called: str, path: Path, to: Path) -> None:
    """Write all entries with hashes, signatures and signers to a new JSON file.

    Raises:
        LedgerError: the file is there already or cannot be written.
    """
    content = json.dumps({called: str(path), "entries": chain.export()}, indent=1)
    try:
        with to.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        raise LedgerError(f"{to} is there already", "Name another file.") from None
    except OSError as error:
        raise LedgerError(f"{to} cannot be written: {error.strerror}") from None
