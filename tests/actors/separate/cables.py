"""A network namespace on a cable that can be unplugged. Needs root and iproute2."""

from __future__ import annotations

import ctypes
import os
import shutil
from typing import Self

from tests.infra.nodes import ip

CAN = os.geteuid() == 0 and shutil.which("ip") is not None
_CLONE_NEWNET = 0x40000000


class Cable:
    """One cable, from a bridge at `here` to a namespace of its own.

    Attributes:
        here: the address of this end, in the tests' own namespace.
    """

    def __init__(self) -> None:
        self._tag = f"bc{os.getpid() % 10000}"
        net = f"10.{180 + os.getpid() % 60}.{os.getpid() % 251}"
        self.here = f"{net}.1"
        self._bridge, self._wire = f"{self._tag}br", f"{self._tag}v"
        ip("link", "add", self._bridge, "type", "bridge")
        ip("addr", "add", f"{self.here}/24", "dev", self._bridge)
        ip("link", "set", self._bridge, "up")
        ip("netns", "add", self._tag)
        ip("link", "add", self._wire, "type", "veth", "peer", "name", "eth0", "netns", self._tag)
        ip("link", "set", self._wire, "master", self._bridge, "up")
        ip("-n", self._tag, "addr", "add", f"{net}.2/24", "dev", "eth0")
        ip("-n", self._tag, "link", "set", "eth0", "up")

    def enter(self) -> None:
        """Move the calling thread, and threads that it starts, to the far end."""
        with open(f"/var/run/netns/{self._tag}") as space:
            if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def unplug(self) -> None:
        ip("link", "set", self._wire, "down")

    def plug(self) -> None:
        ip("link", "set", self._wire, "up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        ip("netns", "del", self._tag)
        ip("link", "del", self._bridge)
