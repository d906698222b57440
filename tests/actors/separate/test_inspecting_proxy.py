"""A company's proxy that ends TLS: it reads every request, and may alter, keep and repeat it."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blindsum.actors.separate import session
from blindsum.actors.separate.messages import PARK_S
from blindsum.infra.certificates import CA_CERTIFICATE
from tests.actors.separate.conftest import Make
from tests.actors.separate.consortium import TWO, Consortium, shared_job
from tests.actors.separate.networks import InspectingProxy, Passed, flipping, flipping_once
from tests.actors.separate.organisations import until

RUN = "run-of-the-inspected"
SECRET = [
    *("trial", RUN, "tumours", "mean_radius", "diagnosis", "accuracy", "local_steps", "epsilon"),
    *("introduce", "contribute", "train", "apply", "read_metrics", "approved", "instructions"),
]
"""Words that occur in messages: names of the job, of its run, and of fields and methods."""


class Sealed:
    """Every content that was sealed in this process, and every one that was opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.closed: set[tuple[bytes, bytes]] = set()
        self.opened: list[tuple[bytes, bytes]] = []
        self.numbers: list[tuple[session.Seal, bytes]] = []
        self._close, self._open = session.Seal.close, session.Seal.open
        monkeypatch.setattr(session.Seal, "close", lambda *given: self.closing(*given))
        monkeypatch.setattr(session.Seal, "open", lambda *given: self.opening(*given))

    def closing(self, seal: session.Seal, content: bytes, about: bytes) -> bytes:
        self.closed.add((bytes(content), about))
        return self._close(seal, content, about)

    def opening(self, seal: session.Seal, body: bytes, about: bytes) -> bytes:
        content = self._open(seal, body, about)
        self.opened.append((content, about))
        self.numbers.append((seal, body[:8]))
        return content

    def all_were_sent(self) -> bool:
        return all(one in self.closed for one in self.opened)

    def none_was_opened_twice(self) -> bool:
        return len(set(self.numbers)) == len(self.numbers)


@pytest.fixture
def sealed(monkeypatch: pytest.MonkeyPatch) -> Sealed:
    return Sealed(monkeypatch)


@pytest.fixture
def inspected(consortium: Make, tmp_path: Path) -> Iterator[tuple[Consortium, InspectingProxy]]:
    """Two silos behind a proxy that inspects; their agents are not started."""
    one = consortium(need_certificate=False)
    trusted = one.coordinator.folder / CA_CERTIFICATE
    with InspectingProxy(tmp_path / "proxy", trusted) as proxy:
        for name in TWO:
            one.enrol(name, link=through(proxy))
        yield one, proxy


def through(proxy: InspectingProxy) -> dict[str, Any]:
    url = f"http://127.0.0.1:{proxy.port}"
    return {"tls": "inspected", "authority": str(proxy.authority), "proxy": url}


def test_a_federation_goes_through_and_the_proxy_reads_sizes_and_times(
    inspected: tuple[Consortium, InspectingProxy],
    tmp_path: Path,
    sealed: Sealed,
    in_parts: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, proxy = inspected
    job = shared_job(tmp_path)
    (tmp_path / "netrc").write_text("default login somebody password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in TWO:
        one.start(name)
    with one.federation(job, RUN) as federation:
        assert federation.run_round(1).attempt == 1
        assert federation.evaluate()
    seen = b"".join(passed.whole for passed in (*proxy.requests, *proxy.answers))
    told = b"".join(content for content, _ in sealed.closed)
    for word in SECRET:
        assert word.encode() in told, f"the test looks for a word that is in no message: {word}"
        assert word.encode() not in seen, word
    assert b"alder" in seen  # a hello is signed, and not sealed: it says who asks
    assert len(proxy.requests) > 40 and sealed.all_were_sent()
    heads = [passed.head.lower() for passed in proxy.requests]
    assert all(b"accept-encoding: identity" in head for head in heads)
    assert not any(b"authorization" in head for head in heads)  # of a ~/.netrc


def test_bits_that_a_proxy_flips_change_no_message(
    inspected: tuple[Consortium, InspectingProxy],
    tmp_path: Path,
    sealed: Sealed,
    in_parts: None,
) -> None:
    one, proxy = inspected
    proxy.alter = flipping(0.08, seed=21)
    for name in TWO:
        one.start(name)
    # Each bit that is flipped costs a session, and several at once some patience.
    job = shared_job(tmp_path, TWO, "deadlines.round_s=240", "deadlines.silent_s=240")
    with one.federation(job, RUN) as federation:
        reports = [federation.run_round(number) for number in (1, 2)]
    assert [report.attempt for report in reports] == [1, 1] and proxy.altered > 5
    assert sealed.all_were_sent() and sealed.none_was_opened_twice()


def test_a_part_that_a_proxy_alters_is_sent_again_at_once(
    inspected: tuple[Consortium, InspectingProxy], tmp_path: Path, in_parts: None
) -> None:
    """The session ends with it, and a new one begins although a poll of the old one is parked."""
    one, proxy = inspected
    for name in TWO:
        one.start(name)
    with one.federation(shared_job(tmp_path), RUN) as federation:
        proxy.alter = flipping_once(10_000)
        started = time.monotonic()
        assert federation.run_round(1).attempt == 1
    assert proxy.altered == 1 and time.monotonic() - started < PARK_S


def test_what_a_proxy_kept_is_refused_when_it_is_sent_again(
    inspected: tuple[Consortium, InspectingProxy], tmp_path: Path, sealed: Sealed
) -> None:
    one, proxy = inspected
    for name in TWO:
        one.start(name)
    with one.federation(shared_job(tmp_path), RUN) as federation:
        federation.run_round(1)
        federation.run_round(2)
        answers = [repeated(one, passed) for passed in list(proxy.requests)]
        assert len(answers) > 40 and {status for status, _ in answers} == {401}
        assert not any(word.encode() in answer for word in SECRET for _, answer in answers)
        assert federation.run_round(3).attempt == 1
    assert one.charges("alder") == [(1, 1), (2, 1), (3, 1)]
    assert sealed.none_was_opened_twice()


def repeated(one: Consortium, passed: Passed) -> tuple[int, bytes]:
    """Send a request to the coordinator once more; returns the status and the answer."""
    context = ssl.create_default_context(cafile=str(one.coordinator.folder / CA_CERTIFICATE))
    with (
        socket.create_connection(("127.0.0.1", one.coordinator.port), 10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as there,
    ):
        there.sendall(passed.whole)
        answer = there.recv(2**16)
    return int(answer.split()[1]), answer


def test_a_coordinator_that_requires_certificates_says_so_in_one_line(
    consortium: Make, tmp_path: Path
) -> None:
    one = consortium(need_certificate=True)
    with InspectingProxy(tmp_path / "proxy", one.coordinator.folder / CA_CERTIFICATE) as proxy:
        silo = one.enrol("alder", link=through(proxy))
        one.start("alder")
        (line,) = until(lambda: silo.said, 10)
        assert line.startswith("refused: this coordinator requires a client certificate, and none")
        assert "\n" not in line and "(tls: inspected)" in line


def test_a_silo_that_does_not_expect_the_proxy_trusts_nobody(
    consortium: Make, tmp_path: Path
) -> None:
    one = consortium()
    with InspectingProxy(tmp_path / "proxy", one.coordinator.folder / CA_CERTIFICATE) as proxy:
        silo = one.enrol("alder", link={"proxy": f"http://127.0.0.1:{proxy.port}"})
        one.start("alder")
        (line,) = until(lambda: silo.said, 10)
        assert "is not trusted" in line and "set tls and authority in silo.yaml" in line
        assert not proxy.requests
