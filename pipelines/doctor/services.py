"""Checks of what a run starts, and of what a silo's owner has set up here."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from shlex import quote

from blindsum.pipelines.doctor.finding import Finding
from blindsum.platform.job.owner import CoordinatorSection, Owner, find_owner, read_owner

_PRIVATE = ("identity.pem", "ledger.sqlite", "audit.sqlite")
_SKEW_S, _MUCH_SKEW_S = 30.0, 3600.0


def local_ray() -> Iterator[Finding]:
    """Find whether a local Ray starts and runs a task."""
    from blindsum.infra.ray_session import ray_session

    started = time.monotonic()
    with ray_session():
        import ray

        answer = ray.get(ray.remote(_answer).remote(), timeout=60)
        seconds = time.monotonic() - started
    yield Finding("Ray", "ok", f"started and ran a task in {seconds:.1f} s (process {answer})")


def _answer() -> int:
    return os.getpid()


def local_mlflow() -> Iterator[Finding]:
    """Find whether MLflow writes a run into a temporary store and reads it back."""
    from blindsum.platform.tracking.mlflow_uri import open_client, sqlite_uri

    started = time.monotonic()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    importlib.import_module("mlflow")  # sets its own levels, so that ours come afterwards
    for name in ("mlflow", "alembic"):  # they tell that they create tables
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="blindsum-doctor-") as folder:
        client = open_client(sqlite_uri(Path(folder) / "mlflow.db"))
        experiment = client.create_experiment("doctor", (Path(folder) / "artifacts").as_uri())
        run = client.create_run(experiment).info.run_id
        client.log_metric(run, "accuracy", 0.5)
        read = client.get_run(run).data.metrics
    seconds = time.monotonic() - started
    same = read.get("accuracy") == 0.5
    yield Finding(
        "MLflow",
        "ok" if same else "bad",
        f"wrote and read a run in {seconds:.1f} s" if same else "a run was not read as written",
        "" if same else "Install the tested version: constraints.txt.",
    )


def owners_file(file: Path | None = None) -> Iterator[Finding]:
    """Find whether the owner's file, its tables and the state folder can be trusted.

    Args:
        file: the owner's file; by default the one in force on this machine.

    Raises:
        ConsentError: the file itself cannot be read or trusted.
    """
    owner = owner_of(file)
    if owner is None:
        yield Finding("owner's file", "ok", "none: this machine asks nobody (for simulations only)")
        return
    yield Finding("owner's file", "ok", f"{owner.path}, silo {', '.join(owner.file.names)}")
    for name, dataset in owner.file.datasets.items():
        path = Path(dataset.path)
        if not os.access(path, os.R_OK):
            yield Finding(
                f"dataset {name}",
                "bad",
                f"{path} does not exist, or this user cannot read it",
                f"Correct its path in {owner.path}, or its permissions.",
            )
        elif _is_open_to_all(path):
            yield Finding(
                f"dataset {name}",
                "warn",
                f"every user of this machine can read {path}",
                f"Run: chmod o-r {quote(str(path))}",
            )
        else:
            yield Finding(f"dataset {name}", "ok", str(path))
    yield from _state(owner.state)


def _is_open_to_all(path: Path) -> bool:
    """Return whether every user can read a file, and pass through each folder above it."""
    readable = bool(path.stat().st_mode & stat.S_IROTH)
    return readable and all(map(_lets_all_through, path.resolve().parents))


def _lets_all_through(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_IXOTH)


def owner_of(file: Path | None) -> Owner | None:
    """Return the owner's file at that path, or the one in force here. Raises ConsentError."""
    return read_owner(file.absolute()) if file else find_owner()


def _state(state: Path) -> Iterator[Finding]:
    if not state.exists():
        yield Finding("state folder", "ok", f"{state} is created by the first job or approval")
        return
    for path in (state, *(state / name for name in _PRIVATE)):
        if not path.exists():
            continue
        found = path.stat()
        open_ = found.st_mode & (0o022 if path == state else 0o077)
        if found.st_uid != os.getuid():
            mend = f"Run Blindsum as its owner, or: chown -R {os.getuid()} {quote(str(state))}"
            yield Finding("state folder", "bad", f"another user owns {path}", mend)
        elif open_:
            do, mode = ("change", "go-w") if path == state else ("open", "600")
            mend = f"Run: chmod {mode} {quote(str(path))}"
            yield Finding("state folder", "bad", f"other users can {do} {path}", mend)
        else:
            yield Finding("state folder", "ok", str(path))


def coordinators_clock(owner: Owner, section: CoordinatorSection) -> Iterator[Finding]:
    """Find how far this clock is from that of the owner's coordinator."""
    from blindsum.actors.separate.client import LinkLost
    from blindsum.pipelines.consortium.silo import SiloHome, link_settings

    link = link_settings(SiloHome(owner))
    try:
        theirs, ours = asyncio.run(_asked(link.tls(), section.url, section.proxy))
    except LinkLost as error:
        yield Finding(
            "coordinator",
            "bad",
            f"{section.url} cannot be reached: {error}",
            "Ask its operator, and look at proxy and firewall. Its clock could not be compared.",
        )
        return
    yield of_skew(section.url, ours - theirs)


def of_skew(url: str, skew_s: float) -> Finding:
    """Return what a difference between this clock and the coordinator's means."""
    said = f"{url} answers; this clock is {abs(skew_s):.0f} s {'ahead' if skew_s > 0 else 'behind'}"
    if abs(skew_s) <= _SKEW_S:
        return Finding("coordinator", "ok", said)
    return Finding(
        "coordinator",
        "bad" if abs(skew_s) > _MUCH_SKEW_S else "warn",
        said,
        "Set the clock that is wrong: approvals end and certificates expire by it.",
    )


async def _asked(tls: object, url: str, proxy: str | None) -> tuple[float, float]:
    """Return the coordinator's time and ours, in seconds since 1970.

    Raises:
        LinkLost: there was no answer with a date.
    """
    import aiohttp

    from blindsum.actors.separate.client import LinkLost, open_http, why

    try:
        timeout = aiohttp.ClientTimeout(total=20)
        async with (
            open_http(tls, url, proxy) as http,  # type: ignore[arg-type]
            http.get(url, timeout=timeout, allow_redirects=False) as answer,
        ):
            said = answer.headers.get("Date", "")
            return parsedate_to_datetime(said).timestamp(), time.time()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise LinkLost(why(error)) from None
    except ValueError:
        raise LinkLost("its answer has no date") from None
