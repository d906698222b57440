"""Ray nodes as separate hosts: each `ray start` has its own network namespace, home and /tmp/ray.

Needs root and iproute2, as CI has. Nodes reach each other and the tests through one bridge.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TOKEN = "0123456789abcdef0123456789abcdef"
PORTS = [
    "--node-manager-port",
    "6380",
    "--object-manager-port",
    "6381",
    "--dashboard-agent-listen-port",
    "52365",
    "--dashboard-agent-grpc-port",
    "52366",
    "--runtime-env-agent-port",
    "52367",
    "--min-worker-port",
    "10002",
    "--max-worker-port",
    "10201",
    "--metrics-export-port",
    "8080",
]
"""As docs/operations.md has them."""

STORE = 100 * 2**20


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"ip {' '.join(arguments)}: {done.stderr.strip()} (needs root, iproute2)"
        )


class Lan:
    """A bridge between network namespaces; the first node is the head.

    Args:
        folder: each node's home is folder/NAME/home.
        certificates: folder of each node's certificate, by name; without it there is no TLS.
        python: the nodes' interpreter.
        mark: a letter, if one process has several networks.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        certificates: Mapping[str, Path],
        python: Path,
        environment: Mapping[str, str],
        mark: str = "",
    ) -> None:
        self.folder, self.names, self._python = folder, list(names), python
        self._certificates, self._environment = certificates, dict(environment)
        self.tag = f"bs{mark}{os.getpid() % 10000}"
        # a separate network for each test process
        self._net = f"10.{77 + os.getpid() % 97}.{(os.getpid() + len(mark)) % 251}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        ip("link", "add", f"{self.tag}br", "type", "bridge")
        ip("addr", "add", f"{self._net}.254/24", "dev", f"{self.tag}br")
        ip("link", "set", f"{self.tag}br", "up")
        for name in self.names:
            self._wire(name)

    def _wire(self, name: str) -> None:
        space, wire = self._space(name), self._wire_of(name)
        ip("netns", "add", space)
        ip("link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("link", "set", wire, "master", f"{self.tag}br", "up")
        if name != self.names[0]:
            # like the policies in infra/kubernetes: a silo's node reaches only the head
            ip("link", "set", wire, "type", "bridge_slave", "isolated", "on")
        ip("-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")
        ip("-n", space, "link", "set", "lo", "up")
        for kind in ("home", "ray"):
            (self.folder / name / kind).mkdir(parents=True, exist_ok=True)

    def address(self, name: str) -> str:
        return f"{self._net}.{self.names.index(name) + 1}"

    @property
    def jobs(self) -> str:
        return f"http://{self.address(self.names[0])}:8265"

    def home(self, name: str) -> Path:
        return self.folder / name / "home"

    def start(self, name: str, resources: str = "{}") -> None:
        """Begin `ray start` on a node; `wait` waits until it is done."""
        here = self.address(name)
        role = ["--head", "--dashboard-host", here] if name == self.names[0] else []
        role += [] if role else ["--address", f"{self.address(self.names[0])}:6379"]
        command = [
            str(self._python),
            "-m",
            "ray.scripts.scripts",
            "start",
            "--block",
            *role,
            "--node-ip-address",
            here,
            "--num-cpus",
            "1",
            "--object-store-memory",
            str(STORE),
            "--resources",
            resources,
            *PORTS,
        ]
        with open(self.folder / name / "ray.log", "ab") as log:
            self._processes[name] = subprocess.Popen(
                self.inside(name, command), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def inside(self, name: str, command: Sequence[str]) -> list[str]:
        """Return the command line that runs a command on a node."""
        os.makedirs("/tmp/ray", exist_ok=True)
        home = self.home(name)
        environment = {
            "HOME": str(home),
            "BLINDSUM_HOME": str(home),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{self._python.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_worker_niceness": "0",
            **self._environment,
        }
        if certificate := self._certificates.get(name):
            from blindsum.infra.certificates import environment as tls

            environment |= tls(certificate)
        settings = [f"{key}={value}" for key, value in environment.items()]
        own = f'mount --bind {self.folder / name / "ray"} /tmp/ray && exec "$@"'
        return [
            "ip",
            "netns",
            "exec",
            self._space(name),
            "unshare",
            "-m",
            "sh",
            "-c",
            own,
            "sh",
            "env",
            "-u",
            "RAY_ADDRESS",
            "-u",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
            *settings,
            *command,
        ]

    def wait_for_head(self, timeout_s: float = 90) -> None:
        self._until(lambda: self._answers() is not None, timeout_s)

    def wait_for(self, nodes: int, timeout_s: float = 120) -> None:
        """Wait until that many nodes are alive."""
        self._until(
            lambda: sum(node["state"] == "ALIVE" for node in self.listed("nodes")) == nodes,
            timeout_s,
        )

    def listed(self, what: str) -> list[dict[str, Any]]:
        """Return the nodes or actors that Ray's state API lists."""
        request = urllib.request.Request(
            f"{self.jobs}/api/v0/{what}?limit=1000&detail=true",
            headers={"Authorization": f"Bearer {TOKEN}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]["result"]
        return found

    def _answers(self) -> int | None:
        try:
            return int(urllib.request.urlopen(f"{self.jobs}/api/version", timeout=2).status)
        except urllib.error.HTTPError as error:
            return error.code  # it requires a token
        except OSError:
            return None

    def _until(self, true: object, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while not true():  # type: ignore[operator]
            if time.monotonic() > end:
                logs = [(self.folder / n / "ray.log").read_text()[-800:] for n in self._processes]
                raise TimeoutError("\n--\n".join(logs))
            time.sleep(0.3)

    def listening(self, name: str) -> set[int]:
        """Return the TCP ports that others can reach on the node's address."""
        tables = "cat /proc/net/tcp /proc/net/tcp6"
        done = subprocess.run(
            ["ip", "netns", "exec", self._space(name), "sh", "-c", tables],
            check=True,
            capture_output=True,
            text=True,
        )
        lines = [line.split() for line in done.stdout.splitlines() if ":" in line]
        sockets = [line[1].split(":") for line in lines if line[3] == "0A"]
        loopback = (
            "0100007F",
            "0000000000000000FFFF00000100007F",
            "00000000000000000000000001000000",
        )
        return {int(port, 16) for address, port in sockets if address not in loopback}

    def cut(self, name: str) -> None:
        """Block all traffic to and from the node."""
        ip("link", "set", self._wire_of(name), "down")

    def heal(self, name: str) -> None:
        ip("link", "set", self._wire_of(name), "up")

    def kill(self, name: str) -> None:
        """Kill the node without a shutdown."""
        for pid in self._pids(name):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._processes.pop(name).wait()

    def close(self) -> None:
        for name in list(self._processes):
            self.kill(name)
        for name in self.names:
            ip("netns", "del", self._space(name))
        ip("link", "del", f"{self.tag}br")
        for name in self.names:
            shutil.rmtree(self.folder / name / "ray", ignore_errors=True)

    def _pids(self, name: str) -> list[int]:
        done = subprocess.run(
            ["ip", "netns", "pids", self._space(name)], check=False, capture_output=True, text=True
        )
        return [int(pid) for pid in done.stdout.split()]

    def _space(self, name: str) -> str:
        return f"{self.tag}{self.names.index(name)}"

    def _wire_of(self, name: str) -> str:
        return f"{self.tag}v{self.names.index(name)}"
