"""What anyone on the network can send to the gate: it still serves, in bounded memory."""

from __future__ import annotations

import gzip
import random
import resource
import socket
import ssl
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from blindsum.actors.separate import bodies, peers
from blindsum.actors.separate import server as server_module
from blindsum.actors.separate.messages import SESSION, Hello, JobProposal, Poll, most_bytes, packed
from tests.actors.separate.liars import Liar, Refused, connection, request, uncertified
from tests.actors.separate.organisations import Coordinator, Organisation, until
from tests.actors.separate.samples import SAMPLES, TOKEN, forget_peak, peak_bytes
from tests.fuzz.mutation import COUNT, mutants

SHORT_S = 0.3
HEAD = b"POST /v1/sessions HTTP/1.1\r\nHost: gate\r\n"


class Besieged:
    """A coordinator with one agent connected, before strangers come."""

    def __init__(self, folder: Path) -> None:
        self.coordinator = Coordinator(folder / "coordinator")
        self.alder = Organisation(folder / "alder", "alder", folder / "t", self.coordinator)
        self.alder.start()
        until(lambda: self.coordinator.gate.connected("alder"))
        self.birch = Organisation(folder / "birch", "birch", folder / "t", self.coordinator)
        self.tls = uncertified(self.coordinator)

    def open(self) -> ssl.SSLSocket:
        """A stranger's connection."""
        return connection(self.coordinator.url, self.tls)

    def plain(self) -> socket.socket:
        """A stranger's connection without TLS."""
        at = urllib.parse.urlsplit(self.coordinator.url)
        return socket.create_connection((at.hostname, at.port), 30)

    def still_serves(self) -> None:
        """The agent that was connected still is, and another one gets in."""
        box = self.coordinator.gate.mailbox("alder")
        assert box.post("ping", "run-1", box.life).result(20)
        assert self.alder.said == ["connected as silo 'alder'"]
        assert Liar(self.birch, self.coordinator).begin().poll().board

    def close(self) -> None:
        self.alder.stop()
        self.coordinator.close()


@pytest.fixture
def besieged(tmp_path: Path) -> Iterator[Besieged]:
    made = Besieged(tmp_path)
    yield made
    made.close()


def answer(one: socket.socket) -> bytes:
    """Everything that the gate says until it ends the connection, or waits for more."""
    said = b""
    with suppress(ConnectionError, ssl.SSLError, TimeoutError):
        while more := one.recv(2**16):
            said += more
    return said


def send(one: socket.socket, content: bytes) -> None:
    """Send what the gate may not want to have."""
    with suppress(ConnectionError, ssl.SSLError, TimeoutError):
        one.sendall(content)


def test_garbage(besieged: Besieged) -> None:
    draw = random.Random(1)
    good = HEAD + b"Content-Length: 3\r\n\r\nabc"
    garbage = [
        b"\r\n" * 1000,
        b"\0" * 1000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"CONNECT gate:443 HTTP/1.1\r\nHost: gate\r\n\r\n",
        b"GET /v1/../../etc/passwd HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n\r\n",
        b"GET " + b"/%2e%2e" * 500 + b" HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n\r\n",
        b"POST /v1/poll HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 1e9\r\n\r\n",
        HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        *(draw.randbytes(500) for _ in range(20)),
        *mutants(good, max(30, COUNT // 4)),
    ]
    for content in garbage:
        with closing(besieged.open()) as one:
            one.settimeout(SHORT_S / 5)
            send(one, content)
            said = answer(one)
            assert not said or said.startswith(b"HTTP/"), said
            assert b"Traceback" not in said and b" 500 " not in said, (content, said)
    with closing(besieged.plain()) as one:
        send(one, b"GET / HTTP/1.1\r\n\r\n" * 100)
        assert b"HTTP" not in answer(one)
    besieged.still_serves()


def test_requests_that_nobody_serves(besieged: Besieged) -> None:
    url, tls = besieged.coordinator.url, besieged.tls
    session = {SESSION: TOKEN}
    for method, path, headers, status in (
        ("GET", "/", {}, 404),
        ("GET", "/v1/poll", session, 404),
        ("DELETE", "/v1/sessions", {}, 404),
        ("POST", "/v1/poll", {}, 401),
        ("POST", "/v1/poll", session, 401),
        ("POST", f"/v1/parts/{TOKEN}/0", session, 401),
        ("POST", f"/v1/proposals/{'a' * 64}", session, 401),
        ("POST", "/v1/certificate", session, 401),
        ("POST", "/v1/sessions", {}, 400),
        ("POST", "/v1/enrolments", {}, 400),
    ):
        with pytest.raises(Refused) as refused:
            request(url, tls, method, path, b"", headers)
        assert refused.value.status == status, (method, path, str(refused.value))
    for number in ("x", "1" * 40, "-1", "\u0661", "1/frames/-1"):
        path = urllib.parse.quote(f"/v1/calls/{number}/values/{TOKEN}")
        with pytest.raises(Refused, match="40[14]"):
            request(url, tls, "POST", path, b"", session)
    besieged.still_serves()


def test_mutated_hellos_and_enrolments(besieged: Besieged) -> None:
    """Over one connection, as fast as it goes."""
    liar = Liar(besieged.birch, besieged.coordinator)
    hello = liar.hello().hello
    enrolment = packed(*SAMPLES[next(kind for kind in SAMPLES if kind.__name__ == "Enrolment")])
    for path, good in (("/v1/sessions", hello), ("/v1/enrolments", enrolment)):
        for body in mutants(good, max(40, COUNT // 2)):
            if body != hello:
                with pytest.raises(Refused, match=r"40[013]|413"):
                    request(liar.url, liar.context, "POST", path, body)
    besieged.still_serves()


# -- slowness ------------------------------------------------------------------------------


@contextmanager
def impatience() -> Iterator[None]:
    """The gate waits for a fraction of a second where it waits for many."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(server_module, "FIRST_S", SHORT_S)
        patched.setattr(bodies, "_BODY_S", SHORT_S)
        patched.setattr(bodies, "_SLOWEST", 2**20)
        yield


def drip(one: socket.socket, content: bytes) -> float:
    """Send a byte at a time for as long as the gate takes them; returns the seconds."""
    started = time.monotonic()
    one.settimeout(SHORT_S / 10)
    for byte in content:
        try:
            one.sendall(bytes([byte]))
            if not one.recv(1000):
                break
        except TimeoutError:
            continue
        except OSError:
            break
        else:
            break
    return time.monotonic() - started


def test_a_connection_that_says_nothing_is_ended(besieged: Besieged) -> None:
    started = time.monotonic()
    with impatience(), closing(besieged.plain()) as bare, closing(besieged.open()) as silent:
        assert answer(bare) == b"" and answer(silent) == b""
    assert time.monotonic() - started < 10
    besieged.still_serves()


def test_a_head_that_comes_byte_by_byte_is_not_waited_for(besieged: Besieged) -> None:
    with impatience(), closing(besieged.open()) as one:
        assert drip(one, HEAD + b"X: " + b"x" * 2000) < 10
    besieged.still_serves()


def test_a_handshake_that_comes_byte_by_byte_is_not_waited_for(besieged: Besieged) -> None:
    hello = bytes.fromhex("160301020001fc0303") + bytes(2000)
    with impatience(), closing(besieged.plain()) as one:
        assert drip(one, hello) < 10
    besieged.still_serves()


def test_a_body_that_comes_byte_by_byte_is_not_waited_for(besieged: Besieged) -> None:
    with impatience():
        with closing(besieged.open()) as one:
            one.sendall(HEAD + b"Content-Length: 9000\r\n\r\n")
            assert drip(one, b"x" * 9000) < 10
        with closing(besieged.open()) as one:
            one.sendall(HEAD + b"Content-Length: 9000\r\n\r\nx")
            assert b" 408 " in answer(one)
    besieged.still_serves()


def test_a_second_request_is_not_waited_for_either(
    besieged: Besieged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_KEEP_ALIVE_S", SHORT_S)
    again = Coordinator(besieged.coordinator.folder)  # keep-alive is set when a server starts
    try:
        with closing(connection(again.url, besieged.tls)) as one:
            one.sendall(b"GET / HTTP/1.1\r\nHost: gate\r\n\r\n")
            assert b"404" in one.recv(4000)
            one.sendall(b"GET / HTTP/1.1\r\nX: ")
            assert answer(one) == b""
    finally:
        again.close()


# -- size ----------------------------------------------------------------------------------


def test_a_decompression_bomb_is_not_opened(besieged: Besieged) -> None:
    bomb = gzip.compress(bytes(2**24))
    assert len(bomb) < most_bytes(Hello) + 4096
    before = forget_peak()
    for encoding in ("gzip", "deflate", "br", "zstd", "identity, gzip", "GZIP"):
        with pytest.raises(Refused, match="400 bodies must not be compressed"):
            request(
                besieged.coordinator.url,
                besieged.tls,
                "POST",
                "/v1/sessions",
                bomb,
                {"Content-Encoding": encoding},
            )
    with closing(besieged.open()) as one:
        one.sendall(HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n")
        send(one, b"%x\r\n%b\r\n0\r\n\r\n" % (len(bomb), bomb))
        one.settimeout(SHORT_S)
        with suppress(TimeoutError):
            assert b"HTTP/1.1 4" in one.recv(4000)
    assert peak_bytes() - before < 2**22
    besieged.still_serves()


def test_a_body_without_a_length_is_refused(besieged: Besieged) -> None:
    with closing(besieged.open()) as one:
        one.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        said = one.recv(4000)
        assert b" 411 " in said and b"needs its length" in said
        send(one, b"ffff\r\n" + bytes(0xFFFF))
        answer(one)
    besieged.still_serves()


@pytest.mark.parametrize("length", [most_bytes(Hello) + 4097, 2**31, 2**63, 10**30])
def test_a_body_that_is_too_long_is_refused_before_it_comes(
    besieged: Besieged, length: int
) -> None:
    with closing(besieged.open()) as one:
        one.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % length)
        assert b" 413 " in one.recv(4000) or length > 2**63
        send(one, bytes(2**16))
        answer(one)
    besieged.still_serves()


@pytest.mark.parametrize(
    ("begins", "more"),
    [
        (HEAD + b"X: ", b"x"),
        (b"POST /", b"v"),
        (HEAD, b"X-n: " + b"x" * 4000 + b"\r\n"),
        (HEAD, b"Cookie: a=b\r\n"),
        (b"", b"\r\n"),
    ],
)
def test_a_head_without_an_end_is_refused(besieged: Besieged, begins: bytes, more: bytes) -> None:
    piece = more * (2**16 // len(more))
    with closing(besieged.open()) as one:
        before = forget_peak()
        send(one, begins)
        for _ in range(2**24 // len(piece)):
            send(one, piece)
        one.settimeout(SHORT_S)
        assert b"HTTP/1.1 200" not in answer(one)
        assert peak_bytes() - before < 2**22
    besieged.still_serves()


def test_requests_that_are_not_waited_for_do_not_pile_up(besieged: Besieged) -> None:
    """A stranger sends requests and reads no answer."""
    before = forget_peak()
    one = besieged.open()
    one.settimeout(SHORT_S)
    sent = 0
    with suppress(OSError), closing(one):
        while sent < 2**24:
            one.sendall(b"GET / HTTP/1.1\r\n\r\n" * 3000)
            sent += 54_000
    assert peak_bytes() - before < 2**23
    besieged.still_serves()


# -- number --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "silent", "one request"])
def test_two_thousand_connections(
    besieged: Besieged, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Without a limit to the files of a process nobody would notice; with one, nobody gets in."""
    number, most = (2000, 1024) if kind == "plain" else (300, 128)
    monkeypatch.setattr(server_module, "MOST_CONNECTIONS", most)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert files > 3 * number
    again = Coordinator(besieged.coordinator.folder, port=0)
    agent = Liar(besieged.birch, again).begin()
    kept = agent.keep()
    with ExitStack() as opened:
        for _ in range(number):
            at = urllib.parse.urlsplit(again.url)
            one = opened.enter_context(socket.create_connection((at.hostname, at.port), 30))
            if kind != "plain":
                one = opened.enter_context(
                    besieged.tls.wrap_socket(one, server_hostname=at.hostname)
                )
            if kind == "one request":
                one.sendall(b"GET / HTTP/1.1\r\nHost: gate\r\n\r\n")
                assert b"404" in one.recv(4000)
        assert len(again.server._door._open) <= most
        # the agent's connection is still the same, and another one gets in
        agent.again(kept)
        agent.poll()
    kept.close()
    again.close()
    besieged.still_serves()


def test_a_silo_has_a_few_connections_and_not_all(besieged: Besieged) -> None:
    """The newest ones are its agent's: after a cut, those of before are only counted."""
    liar = Liar(besieged.birch, besieged.coordinator).begin()
    kept = [liar.keep() for _ in range(40)]
    gate = besieged.coordinator.gate
    assert len(gate._peers["birch"].connections) <= peers._MOST_CONNECTIONS
    liar.again(kept[-1])
    with pytest.raises((OSError, Refused)):
        liar.again(kept[0])
    for one in kept:
        one.close()
    besieged.still_serves()


def test_strangers_cannot_propose_jobs_without_end_at_once(besieged: Besieged) -> None:
    """Whether a token proves a job is known once all of it is there."""
    length = most_bytes(JobProposal)
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: gate\r\nContent-Length: %d\r\n\r\n" % length
    with ExitStack() as opened:
        held = [opened.enter_context(besieged.open()) for _ in range(8)]
        for one in held:
            one.sendall(head)
        until(lambda: besieged.coordinator.gate._proposing == 8)
        with pytest.raises(Refused, match="429 too many jobs"):
            request(besieged.coordinator.url, besieged.tls, "POST", "/v1/jobs", b"x")
    until(lambda: besieged.coordinator.gate._proposing == 0)
    with pytest.raises(Refused, match="400"):
        request(besieged.coordinator.url, besieged.tls, "POST", "/v1/jobs", b"x")
    besieged.still_serves()


def test_a_silo_cannot_send_without_end_at_once(besieged: Besieged) -> None:
    """Bodies that have not arrived yet take memory too."""
    liar = Liar(besieged.birch, besieged.coordinator).begin()
    assert liar.session
    most = most_bytes(Poll)
    head = (
        f"POST /v1/poll HTTP/1.1\r\nHost: gate\r\n{SESSION}: {liar.session.name}\r\n"
        f"Content-Length: {most}\r\n\r\n"
    ).encode()
    with ExitStack() as opened:
        said = []
        for _ in range(4):
            one = opened.enter_context(connection(liar.url, liar.context))
            one.sendall(head)
            one.settimeout(SHORT_S)
            try:
                said.append(one.recv(4000))
            except TimeoutError:
                said.append(b"")
        assert [b" 429 " in one for one in said] == [False, False, True, True]
    until(lambda: besieged.coordinator.gate._peers["birch"].arriving == 0)
    besieged.still_serves()
