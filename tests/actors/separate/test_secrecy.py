"""What crosses between organisations, opened, holds no key, no record and no single silo's update.

The scan is that of `tests/actors/test_secrecy.py`: silos write their secrets to files, and every
body that either side opens is searched for any stretch of them.
"""

import base64
import re
from pathlib import Path
from typing import Any

import pytest

from blindsum.actors.separate.session import Session
from tests.actors.separate.test_federation import World, world
from tests.actors.test_secrecy import TellingSilo, found, recorded

__all__ = ["world"]  # the fixture
_BASE64 = re.compile(rb'"([A-Za-z0-9_-]{40,}=*)"')


def opened_base64(content: bytes) -> bytes:
    """Everything in a content that messages hold as base64."""
    texts = _BASE64.findall(content)
    return b"".join(base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4)) for text in texts)


def secrets_of(here: World) -> list[Path]:
    return [path.parent for path in here.folder.rglob("secrets")]


def test_what_crosses_between_organisations_holds_no_secret(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies: list[bytes] = []
    real = Session.open

    def open_and_keep(self: Session, body: bytes, method: str, path: str) -> bytes:
        content = real(self, body, method, path)
        bodies.append(content)
        return content

    monkeypatch.setattr(Session, "open", open_and_keep)
    here = world("model={kind: mlp, hidden: [40]}")
    here.connect(TellingSilo)
    one = here.federation(here.propose())
    reports = [one.run_round(number) for number in (1, 2)]
    assert one.evaluate()
    assert one.release(2, reports[-1].state_digest).round == 2
    one.forget()
    heard = b"".join(bodies)
    heard += opened_base64(heard)
    assert len(heard) > 200_000 and b"read_metrics" in heard
    folders = secrets_of(here)
    kinds = {kind.name for folder in folders for kind in (folder / "secrets").iterdir()}
    assert len(folders) == 3
    assert kinds == {"key", "identity", "seed", "record", "update", "metrics"}
    text = heard.decode("latin-1")
    for folder in folders:
        assert found(folder, heard) == set()
        assert recorded(folder, text) == set()
    for silo in here.silos.values():  # no path of an organisation
        assert str(silo.folder) not in text
        assert Path(silo.content["datasets"]["tumours"]["path"]).name not in text


def test_the_scan_would_find_them() -> None:
    """A key that stands in a message as base64 is found."""
    key = bytes(range(64))
    message = b'{"sealed":"' + base64.urlsafe_b64encode(key) + b'"}'
    assert key in opened_base64(message)
