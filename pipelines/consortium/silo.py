"""`blindsum silo serve` and what goes with it: a silo's agent, its files, and its status."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from blindsum.actors.ray_cluster import RayCluster
from blindsum.actors.separate.agent import Agent, status_file
from blindsum.actors.separate.client import client_context
from blindsum.actors.separate.inbox import Inbox
from blindsum.actors.separate.link import LinkSettings, Renewing
from blindsum.actors.separate.relay import as_agents_actor
from blindsum.actors.vault import open_identity
from blindsum.he.identity import PUBLIC_BYTES, fingerprint
from blindsum.infra.certificates import (
    CA_CERTIFICATE,
    NODE_CERTIFICATE,
    NODE_KEY,
    keep_certificate,
    make_request,
    renewal_due,
)
from blindsum.infra.ray_session import ray_session
from blindsum.pipelines.consortium.invitation import Token, join, short_fingerprint
from blindsum.platform.errors import ClusterError, ConsentError
from blindsum.platform.job.owner import CoordinatorSection, Owner, find_owner, places, read_owner
from blindsum.platform.job.yaml_reader import dump

COORDINATOR_KEY = "coordinator.pub"


@dataclass(frozen=True)
class SiloHome:
    """A silo's owner's file and the files of its agent in the state folder."""

    owner: Owner

    @property
    def name(self) -> str:
        """The name under which the agent connects."""
        return self.owner.file.names[0]

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.owner.state

    @property
    def tls(self) -> Path:
        """The folder with the agent's certificate."""
        return self.state / "tls"

    @property
    def coordinator(self) -> CoordinatorSection:
        """The coordinator. Raises ConsentError if the silo has not joined one."""
        if self.owner.file.coordinator is None:
            raise ConsentError(
                f"{self.owner.path} names no coordinator",
                "Ask the consortium's operator for an invitation, and run: blindsum silo join "
                "INVITATION.",
            )
        return self.owner.file.coordinator


def open_silo(file: Path | None) -> SiloHome:
    """Return the silo whose owner's file this is, or whose file is found on this machine.

    Raises:
        ConsentError: there is none, or it cannot be trusted.
    """
    owner = read_owner(file.absolute()) if file else find_owner()
    if owner is None:
        raise ConsentError(
            f"there is no owner's file at {' or '.join(map(str, places()))}",
            "Write one with: blindsum silo init NAME --dataset NAME=/PATH, or give --file.",
        )
    return SiloHome(owner)


def join_coordinator(home: SiloHome, token: Token, proxy: str | None) -> tuple[str, str]:
    """Enrol a silo with an invitation, and add the coordinator to its owner's file.

    Returns:
        the short fingerprint that people on both sides compare, and what the owner must add to the
        owner's file, because this user may not write to it.

    Raises:
        ConsentError: the invitation is for another silo, or the silo has another coordinator.
        ClusterError, KeyRefused: as `blindsum.pipelines.consortium.invitation.join`.
    """
    if token.silo not in home.owner.file.names:
        raise ConsentError(
            f"this invitation is for silo '{token.silo}', but {home.owner.path} allows "
            f"{', '.join(home.owner.file.names)}",
            "Ask the coordinator's operator for one with your name.",
        )
    known = home.owner.file.coordinator
    if known and known.identity != token.fingerprint:
        raise ConsentError(
            f"{home.owner.path} names another coordinator, {known.url}",
            "Remove its section `coordinator` first, if you mean to leave it.",
        )
    identity = open_identity(home.state)
    enrolled = join(token, identity.public, home.tls, proxy or (known.proxy if known else None))
    (home.state / COORDINATOR_KEY).write_bytes(enrolled.identity)
    compare = short_fingerprint(enrolled.identity, identity.public)
    if known:
        return compare, ""
    section = {"coordinator": {"url": token.url, "identity": token.fingerprint}}
    if proxy:
        section["coordinator"]["proxy"] = proxy
    try:
        with home.owner.path.open("a", encoding="utf-8") as file:
            file.write("\n" + dump(section))
    except OSError:  # root's file, or a secret's that a pod mounts
        return compare, dump(section)
    return compare, ""


def link_settings(home: SiloHome) -> LinkSettings:
    """Return how the agent reaches its coordinator.

    Raises:
        ConsentError: the silo has not joined one, or the kept identity is not the pinned one.
    """
    section = home.coordinator
    try:
        public = (home.state / COORDINATOR_KEY).read_bytes()
    except OSError:
        public = b""
    if len(public) != PUBLIC_BYTES or fingerprint(public) != section.identity:
        raise ConsentError(
            f"{home.state / COORDINATOR_KEY} is not the identity that {home.owner.path} pins",
            "Join again: blindsum silo join INVITATION.",
        )
    own = None if section.tls == "inspected" else home.tls / CA_CERTIFICATE
    authority = Path(section.authority) if section.authority else own
    mutual = section.tls == "mutual"

    def tls() -> Any:
        return client_context(
            authority,
            home.tls / NODE_CERTIFICATE if mutual else None,
            home.tls / NODE_KEY if mutual else None,
        )

    def request() -> str | None:
        return make_request(home.tls, f"{home.name}.silo") if renewal_due(home.tls) else None

    return LinkSettings(
        url=section.url,
        coordinator=public,
        fingerprint=section.identity,
        tls=tls,
        proxy=section.proxy,
        renewing=Renewing(request, partial(keep_certificate, home.tls)) if mutual else None,
    )


def serve_silo(
    home: SiloHome,
    version: str,
    address: str | None,
    cores: int | None,
    page: bool,
    say: Callable[[str], None],
) -> None:
    """Run a silo's agent until SIGTERM or Ctrl-C.

    Args:
        address: address of the organisation's Ray, or None to start one here.
        cores: how many cores the silo may use; None: all of its machine.
        page: serve the owner's page on this machine's loopback.
        say: shows one line.

    Raises:
        ConsentError, ClusterError: the agent cannot start.
    """
    settings = link_settings(home)
    settings.tls()
    identity = open_identity(home.state)
    with ExitStack() as stack:
        if not stack.enter_context(_locked(home.state)):
            raise ClusterError(
                f"an agent of silo '{home.name}' is running on this machine already",
                "See: blindsum silo status.",
            )
        say("starting Ray")
        stack.enter_context(ray_session(address))
        if page:
            from blindsum.pipelines.consortium.page import serve_page

            served = serve_page(home.owner, home.name, Inbox(home.state))
            stack.callback(served.close)
            say(f"your page: {served.url}")
        cluster = RayCluster(as_agents_actor(str(home.owner.path)), cores=cores, own=True)

        async def serve() -> None:
            stop, loop = asyncio.Event(), asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stop.set)
            agent = Agent(home.owner, home.name, settings, identity, cluster, version, say)
            await agent.serve(stop)

        asyncio.run(serve())


def status_of(state: Path) -> dict[str, Any]:
    """Return what the agent noted last; empty if it never ran."""
    try:
        found: dict[str, Any] = json.loads(status_file(state).read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        return {}


def is_serving(state: Path) -> bool:
    """Return whether an agent of this silo is running on this machine."""
    if not state.is_dir():
        return False
    with _locked(state) as free:
        return not free


@contextmanager
def _locked(state: Path) -> Iterator[bool]:
    """Hold the lock of a silo's agent; yields whether it was free."""
    with open(os.open(state / "agent.lock", os.O_CREAT | os.O_RDWR, 0o600), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
