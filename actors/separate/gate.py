"""The coordinator's gate: the HTTPS server that agents connect to.

Every body after the beginning of a session is sealed (`blindsum.actors.separate.session`).
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import cast

from aiohttp import web

from blindsum.actors.cluster import Answered, Outcome, Raised
from blindsum.actors.codec import encoded
from blindsum.actors.separate.bodies import Refusal, number_of, problem, read
from blindsum.actors.separate.failures import failure_of, printable
from blindsum.actors.separate.mailbox import Mailbox
from blindsum.actors.separate.messages import (
    MOST_PART,
    PARK_S,
    PART,
    SESSION,
    Decision,
    Enrolment,
    Hello,
    JobProposal,
    Next,
    Notice,
    Poll,
    Renewal,
    most_bytes,
    packed,
    unpacked,
)
from blindsum.actors.separate.peers import STALE_S, Peer, require_certificate, require_version
from blindsum.actors.separate.proven import SignRequest, TakeJob, enrol, propose
from blindsum.actors.separate.registry import Registry
from blindsum.actors.separate.server import Connection
from blindsum.actors.separate.session import Session, grant, read_hello
from blindsum.he.identity import Identity
from blindsum.platform.errors import (
    AggregatorLost,
    BlindsumError,
    ClusterError,
    FederationError,
    KeyRefused,
    without_values,
)
from blindsum.platform.events import Log

_OVERHEAD = 64  # of a seal
_MOST_PENDING = 8  # sessions of a silo that are not used yet
_MOST_ARRIVING = 2**27  # bytes of a silo's bodies
_MOST_PROPOSING = 8  # jobs that arrive at the same time
_SLOWEST_JOB = 2**15  # bytes a second


class Gate:
    """The requests of agents. `blindsum.actors.separate.server` serves it.

    Args:
        identity: the coordinator's.
        sign_request: returns the certificate for a request and a silo's name.
        version: blindsum's.
        take_job: takes a proposal and its code.
        need_certificate: refuse agents without a client certificate: no proxy may end TLS.
    """

    def __init__(
        self,
        registry: Registry,
        identity: Identity,
        sign_request: SignRequest,
        version: str,
        take_job: TakeJob,
        need_certificate: bool = True,
    ) -> None:
        self.registry, self._identity, self._sign = registry, identity, sign_request
        self._version, self._need_certificate = version, need_certificate
        self._take_job = take_job
        self.instance = secrets.token_hex(16)
        self._log = Log(who="gate")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._peers: dict[str, Peer] = {}
        self._sessions: dict[str, tuple[str, Session]] = {}
        self._lock = threading.Lock()
        self._proposing = 0
        self.board = 1

    def begin(self) -> None:
        """Bind to the running event loop."""
        self._loop = asyncio.get_running_loop()

    def mailbox(self, silo: str) -> Mailbox:
        """Return a silo's mailbox; may be called in any thread."""
        return self._peer(silo).mailbox

    def connected(self, silo: str) -> bool:
        """Return whether a silo's agent was heard within STALE_S."""
        return silo in self._peers and self._peers[silo].mailbox.silent_s() < STALE_S

    def boards_changed(self) -> None:
        """Tell every agent that proposals have changed; may be called in any thread."""
        self.board += 1
        for peer in list(self._peers.values()):
            self._wake(peer)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            return await self._route(request)
        except Refusal as refused:
            return problem(refused.status, refused.error)
        except FederationError as error:
            return problem(400, error)
        except KeyRefused as error:
            return problem(401, error)
        except BlindsumError as error:
            return problem(403, error)
        except Exception as error:  # noqa: BLE001 - nothing of ours may reach a stranger
            self._log.say("failed", error=str(without_values(error)))
            return problem(500, FederationError("the coordinator failed unexpectedly"))

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        match (request.method, *parts):
            case ("POST", "v1", "sessions"):
                return await self._begin_session(request)
            case ("POST", "v1", "enrolments"):
                return await self._enrol(request)
            case ("POST", "v1", "jobs"):
                return await self._job(request)
            case ("POST", "v1", "poll"):
                return await self._poll(request)
            case ("POST", "v1", "calls", number, "frames", aggregator, _):
                return await self._frame(request, number_of(number), number_of(aggregator))
            case ("POST", "v1", "calls", number, "values", _):
                return await self._value(request, number_of(number))
            case ("POST", "v1", "parts", digest, start):
                silo, session, _ = await self._authentic(request, 0)
                part, at = self._peers[silo].mailbox.part(digest), number_of(start)
                return _sealed(session, request, bytes(part[at : at + PART]))
            case ("POST", "v1", "proposals", digest):
                return await self._proposal(request, digest)
            case ("POST", "v1", "certificate"):
                return await self._renew(request)
        raise Refusal(404, FederationError(f"there is no {request.path[:60]!r} here"))

    # -- sessions ----------------------------------------------------------------------------

    async def _begin_session(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await read(request, most_bytes(Hello) + 4096)
        hello = read_hello(body)
        require_certificate(request, hello.silo, self._need_certificate)
        require_version(hello, self._version)
        silo = self.registry.silo(hello.silo)
        if silo is None:
            raise Refusal(403, ClusterError(f"no silo '{hello.silo}' is enrolled here"))
        try:
            session, welcome = grant(
                body, hello, silo.identity, self._identity, self._version, self.instance
            )
        except KeyRefused as error:  # a new hello would be refused as well
            raise Refusal(403, error) from None
        peer = self._peer(hello.silo)
        peer.require_single(hello)
        peer.require_new(hello)
        peer.pending.append(session)
        self._sessions[session.name] = (hello.silo, session)
        self._forget(peer.pending[:-_MOST_PENDING])
        del peer.pending[:-_MOST_PENDING]
        return web.Response(body=welcome)

    def _end_sessions(self, silo: str) -> None:
        """Forget what an earlier identity of a silo has begun."""
        peer = self._peer(silo)
        self._forget([*peer.pending, *([peer.session] if peer.session else [])])
        peer.session, peer.pending = None, []
        peer.mailbox.give_up("it was enrolled again")
        self._wake(peer)

    def _forget(self, sessions: Iterable[Session]) -> None:
        for one in sessions:
            self._sessions.pop(one.name, None)

    def _confirm(self, silo: str, session: Session) -> None:
        """Take up a session: its agent has just proved that it holds the session's keys."""
        peer = self._peers[silo]
        if peer.session is session:
            return
        self._forget(one for one in peer.pending if one is not session)
        before, peer.session, peer.pending = peer.session, session, []
        if before:
            self._forget([before])
            if before.peer_instance != session.peer_instance:
                peer.connections = []
                peer.mailbox.give_up("its agent was started again")
        self._log.say("connected", silo=silo)

    async def _authentic(self, request: web.BaseRequest, most: int) -> tuple[str, Session, bytes]:
        """Return the silo, its session, and the opened body of a request.

        Args:
            most: the greatest size of the body's content.

        Raises:
            Refusal: there is no such session, or the body is too long or not sealed in it.
        """
        found = self._sessions.get(request.headers.get(SESSION, ""))
        if found is None:
            raise Refusal(401, KeyRefused("there is no such session", "Begin a new one."))
        silo, session = found
        peer = self._peers[silo]
        length = request.content_length or 0
        if peer.arriving + length > _MOST_ARRIVING:
            raise Refusal(429, FederationError("this silo sends too much at once"))
        peer.arriving += length
        try:
            body = await read(request, most + _OVERHEAD)
        finally:
            peer.arriving -= length
        content = session.open(body, request.method, request.path)
        self._confirm(silo, session)
        peer.uses(cast(Connection, request.protocol))
        peer.mailbox.hear()
        return silo, session, content

    # -- messages ----------------------------------------------------------------------------

    async def _poll(self, request: web.BaseRequest) -> web.StreamResponse:
        silo, session, content = await self._authentic(request, most_bytes(Poll))
        poll, attached = unpacked(content, Poll)
        peer = self._peers[silo]
        self._note_seen(peer, silo, request)
        received, left = [], list(attached)
        for answer in poll.answers:
            count = sum(not one.digest for one in (*answer.value, *answer.frames))
            peer.mailbox.receive(answer, left[:count])
            left = left[count:]
            received.append(answer.number)
        if poll.decisions:
            self._decide(silo, poll.decisions)
        if poll.park and not received:
            await self._park(peer, session, poll)
            if peer.session is not session:
                raise Refusal(401, KeyRefused("another session has replaced this one"))
        calls = peer.mailbox.since(poll.after)
        attachments = [one for call in calls for one in call.attached]
        board = self.board
        notices = self._notices(silo) if board != poll.board else ()
        following = Next(
            received=tuple(received),
            instructions=tuple(call.instruction for call in calls),
            board=board,
            notices=notices,
        )
        peer.mailbox.hear()
        return _sealed(session, request, packed(following, attachments))

    async def _park(self, peer: Peer, session: Session, poll: Poll) -> None:
        """Wait until there is something for the agent, or PARK_S have passed."""
        end = asyncio.get_running_loop().time() + PARK_S
        peer.mailbox.parked += 1
        try:
            while not peer.mailbox.since(poll.after) and self.board == poll.board:
                peer.woken.clear()
                left = end - asyncio.get_running_loop().time()
                if left <= 0 or peer.session is not session:
                    return
                try:
                    await asyncio.wait_for(peer.woken.wait(), left)
                except TimeoutError:
                    return
        finally:
            peer.mailbox.parked -= 1

    async def _frame(
        self, request: web.BaseRequest, number: int, aggregator: int
    ) -> web.StreamResponse:
        silo, session, content = await self._authentic(request, MOST_PART)
        added = self._peers[silo].mailbox.receive_frame(number, aggregator, content)
        # Shielded: a lost connection must not take the frame back.
        outcome = await asyncio.shield(asyncio.wrap_future(added))
        return _sealed(session, request, _frame_answer(outcome))

    async def _value(self, request: web.BaseRequest, number: int) -> web.StreamResponse:
        silo, session, content = await self._authentic(request, MOST_PART)
        self._peers[silo].mailbox.receive_value(number, content)
        return _sealed(session, request, b"")

    async def _proposal(self, request: web.BaseRequest, digest: str) -> web.StreamResponse:
        silo, session, _ = await self._authentic(request, 0)
        if digest not in self._open_for(silo):
            raise Refusal(404, FederationError("no such job is proposed to this silo"))
        found = next(one for one in self.registry.proposals() if one.digest == digest)
        body = packed(found.message, list(found.code.values()))
        return _sealed(session, request, body)

    def _decide(self, silo: str, decisions: Iterable[Decision]) -> None:
        """Note what is new among a silo's decisions about its own open proposals."""
        newest = {one.proposal: one for one in decisions}
        for digest in newest.keys() & set(self._open_for(silo)):
            decision = replace(newest[digest], reason=printable(newest[digest].reason))
            if self.registry.decisions(digest).get(silo) != decision:
                self.registry.decide(silo, decision)

    def _notices(self, silo: str) -> tuple[Notice, ...]:
        return tuple(
            Notice(proposal=one.digest, state=one.state, note=(one.note or "")[:1000])
            for one in self.registry.latest_for(silo)
        )

    def _open_for(self, silo: str) -> tuple[str, ...]:
        """Return the digests of the open proposals in which a silo is named."""
        return tuple(one.digest for one in self.registry.open_for(silo))

    # -- enrolment ---------------------------------------------------------------------------

    async def _enrol(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await read(request, most_bytes(Enrolment))
        silo, answer = enrol(body, self.registry, self._identity, self._sign)
        self._end_sessions(silo)
        self._log.say("enrolled", silo=silo)
        return web.Response(body=answer)

    async def _job(self, request: web.BaseRequest) -> web.StreamResponse:
        # Anyone may send such a body, and it is long.
        if self._proposing >= _MOST_PROPOSING:
            raise Refusal(429, FederationError("too many jobs are being proposed"))
        self._proposing += 1
        try:
            body = await read(request, most_bytes(JobProposal), _SLOWEST_JOB)
        finally:
            self._proposing -= 1
        answer = await propose(body, self.registry, self._take_job)
        self.boards_changed()
        return web.Response(body=answer)

    async def _renew(self, request: web.BaseRequest) -> web.StreamResponse:
        silo, session, content = await self._authentic(request, most_bytes(Renewal))
        asked, _ = unpacked(content, Renewal)
        certificate, authority = self._sign(asked.content, silo)
        answer = Renewal(content=certificate, authority=authority)
        self._log.say("renewed", silo=silo)
        return _sealed(session, request, packed(answer))

    # -- helpers -----------------------------------------------------------------------------

    def _peer(self, silo: str) -> Peer:
        with self._lock:
            if silo not in self._peers:
                woken = asyncio.Event()
                peer = Peer(Mailbox(silo), woken)
                peer.mailbox.woken = lambda: self._wake(peer)
                self._peers[silo] = peer
            return self._peers[silo]

    def _wake(self, peer: Peer) -> None:
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(peer.woken.set)

    def _note_seen(self, peer: Peer, silo: str, request: web.BaseRequest) -> None:
        """Note in the registry that a silo is connected, at most every few seconds."""
        now = asyncio.get_running_loop().time()
        if now - peer.noted > PARK_S:
            peer.noted = now
            self.registry.seen(silo, self._version, str(request.remote or ""))


def _sealed(session: Session, request: web.BaseRequest, content: bytes) -> web.Response:
    return web.Response(body=session.close(content, request.method, request.path))


def _frame_answer(outcome: Outcome) -> bytes:
    """Return what a silo learns about a frame: nothing if it was added, or the error."""
    if isinstance(outcome, Answered):
        return b""
    lost = AggregatorLost("the aggregator's process died")
    error = outcome.error if isinstance(outcome, Raised) else lost
    return encoded(failure_of(error))
