"""Checks of the machine: memory, disks, shared memory, loopback, clock, proxies."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import shutil
import socket
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import blindsum
from blindsum.infra.ray_session import OBJECT_STORE_BYTES
from blindsum.pipelines.doctor.finding import Finding, State
from blindsum.pipelines.show.console import size
from blindsum.platform.job.paths import home_folder, results_folder

_LITTLE_MEMORY = 2e9
_TOO_LITTLE_MEMORY = 1e9
_LITTLE_DISK = 2e9
_TOO_LITTLE_DISK = 2e8
_TIME_ERROR, _UNSYNCHRONISED = 5, 0x40


def memory(
    meminfo: Path = Path("/proc/meminfo"),
    cgroups: Path = Path("/sys/fs/cgroup"),
    own: Path = Path("/proc/self/cgroup"),
) -> Iterator[Finding]:
    """Find whether there is memory for a small run; docs/operations.md has the sizing.

    Args:
        meminfo: the machine's memory.
        cgroups: the folder with the limits of containers, services and batch jobs.
        own: the file with this process's place in it.
    """
    free = _available(meminfo)
    if free is None:
        yield Finding("memory", "warn", "cannot be read here", "Look at it with: free -h")
        return
    within = ""
    left = min(_left(cgroups, own), default=free)
    if left < free:
        free, within = left, ", within the limit of this container, service or batch job"
    state: State = "ok"
    if free < _LITTLE_MEMORY:
        state = "bad" if free < _TOO_LITTLE_MEMORY else "warn"
    yield Finding(
        "memory",
        state,
        f"{size(free)} available{within}",
        ""
        if state == "ok"
        else "A silo needs about 0.5 GB and its table, a local run of three silos about 2.5 GB: "
        "end other processes, or raise the limit.",
    )


def _available(meminfo: Path) -> float | None:
    try:
        lines = meminfo.read_text().splitlines()
        return next(1024.0 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        return None


def _left(cgroups: Path, own: Path) -> Iterator[float]:
    """Yield what each limit that holds for this process leaves (cgroups(7), version 2).

    Cached pages of files count as used there, but the kernel gives them up when memory is needed.
    """
    try:
        (place,) = [x[3:] for x in own.read_text().splitlines() if x.startswith("0::")]
    except (OSError, ValueError):  # version 1, or another system
        place = "/"
    folder = cgroups / place.lstrip("/")
    for one in (folder, *folder.parents):
        limit, used = _number(one / "memory.max"), _number(one / "memory.current")
        if limit is not None and used is not None:
            yield limit - used + _cached(one / "memory.stat")
        if one == cgroups:
            break


def _cached(stat: Path) -> float:
    try:
        lines = dict(line.split() for line in stat.read_text().splitlines())
        return float(lines["inactive_file"])
    except (OSError, ValueError, KeyError):
        return 0.0


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):  # "max": no limit
        return None


def disks(state: Path | None) -> Iterator[Finding]:
    """Find the space for states, results and temporary files.

    Args:
        state: the state folder of the owner's file, or None.
    """
    for what, folder in (
        ("silos' state", state or home_folder()),
        ("results", results_folder(Path.cwd()) / "runs"),
        ("temporary files", Path(tempfile.gettempdir())),
    ):
        existing = next(one for one in (folder, *folder.parents) if one.exists())
        name = f"disk, {what}"
        if not os.access(existing, os.W_OK | os.X_OK):
            yield Finding(
                name,
                "bad",
                f"this user cannot write to {existing}",
                "Change its owner or its permissions, or choose another folder.",
            )
            continue
        free = shutil.disk_usage(existing).free
        found: State = "ok"
        if free < _LITTLE_DISK:
            found = "bad" if free < _TOO_LITTLE_DISK else "warn"
        mend = "" if found == "ok" else "Make room: a silo whose disk is full leaves the run."
        yield Finding(name, found, f"{size(free)} free in {existing}", mend)


def shared_memory(folder: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Find whether Ray's object store fits into shared memory."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        yield Finding(
            "/dev/shm", "warn", "does not exist here", "Ray uses a slower folder instead."
        )
        return
    enough = free >= OBJECT_STORE_BYTES
    yield Finding(
        "/dev/shm",
        "ok" if enough else "warn",
        f"{size(free)} free; a local Ray takes {size(OBJECT_STORE_BYTES)}",
        "" if enough else "Ray uses a slower folder instead. In a container: --shm-size=1g.",
    )


def ports() -> Iterator[Finding]:
    """Find whether processes on this machine can reach each other over loopback."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = server.getsockname()
            with socket.create_connection(address, timeout=5):
                pass
    except OSError as error:
        yield Finding(
            "ports",
            "bad",
            f"no connection over 127.0.0.1 ({error.strerror or error})",
            "Ray needs it: bring up the interface lo, and let the firewall accept it.",
        )
        return
    yield Finding("ports", "ok", "127.0.0.1 accepts connections on free ports")


def clock() -> Iterator[Finding]:
    """Find whether the clock is set. It dates approvals, ledgers and certificates."""
    newest = Path(blindsum.__file__).stat().st_mtime
    if time.time() < newest - 86400:
        yield Finding(
            "clock",
            "bad",
            f"{_utc(time.time())} UTC is before this installation was written ({_utc(newest)})",
            "Set the clock: timedatectl set-ntp true.",
        )
        return
    synchronised = _synchronised()
    now = f"{_utc(time.time())} UTC"
    if synchronised is None:
        yield Finding(
            "clock",
            "warn",
            f"{now}; whether it is synchronised cannot be asked here",
            "Compare it with a clock that you trust.",
        )
    elif synchronised:
        yield Finding("clock", "ok", f"{now}, synchronised according to the kernel")
    else:
        yield Finding(
            "clock",
            "warn",
            f"{now}; the kernel says that nothing synchronises it (in a container: its host may)",
            "Compare it with a clock that you trust, or: timedatectl set-ntp true.",
        )


def _synchronised() -> bool | None:
    """Return what the kernel says (adjtimex(2), read only); None if it cannot be asked."""
    name = ctypes.util.find_library("c")
    adjtimex = getattr(ctypes.CDLL(name), "adjtimex", None) if name else None
    if adjtimex is None:
        return None
    # struct timex: `modes` comes first, 0 asks without setting; `status` is its sixth field.
    content = (ctypes.c_long * 64)()
    found = int(adjtimex(ctypes.byref(content)))
    if found < 0:
        return None
    status = ctypes.c_int.from_address(ctypes.addressof(content) + 5 * ctypes.sizeof(ctypes.c_long))
    return found != _TIME_ERROR and not status.value & _UNSYNCHRONISED


def _utc(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(when))


def proxies(environment: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Find proxies that would catch what Ray and MLflow send within this machine."""
    given = os.environ if environment is None else environment
    named = sorted(
        name
        for name, value in given.items()
        if value and name.lower() in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
    )
    if not named:
        yield Finding("proxies", "ok", "none in the environment")
        return
    bypass = {name.lower(): value for name, value in given.items() if name.lower() == "no_proxy"}
    excepted = bool(
        urllib.request.proxy_bypass_environment(  # type: ignore[attr-defined]
            "127.0.0.1", {"no": bypass.get("no_proxy", "")}
        )
    )
    of_grpc = [one for one in named if one in ("grpc_proxy", "https_proxy", "http_proxy")]
    # gRPC's library reads only the names in small letters.
    grpc = given.get("no_grpc_proxy") or given.get("no_proxy", "")
    if excepted and (not of_grpc or "127.0.0.1" in grpc or grpc == "*"):
        yield Finding("proxies", "ok", f"{', '.join(named)}; 127.0.0.1 is excepted")
        return
    yield Finding(
        "proxies",
        "bad",
        f"{', '.join(named)}: requests within this machine would go to the proxy",
        "Except it, in small letters too, which gRPC reads: export NO_PROXY=127.0.0.1,localhost "
        "no_proxy=127.0.0.1,localhost",
    )
