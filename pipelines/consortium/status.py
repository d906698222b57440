"""`blindsum coordinator status`: the silos and the jobs of a consortium."""

from __future__ import annotations

import time
from typing import Any

from blindsum.actors.separate.messages import Decision
from blindsum.he.identity import fingerprint
from blindsum.pipelines.consortium.invitation import short_fingerprint
from blindsum.pipelines.consortium.settings import CoordinatorHome
from blindsum.pipelines.show.console import emit, show_result
from blindsum.pipelines.show.table import Sheet

_NOW_S = 15.0


def show_status(home: CoordinatorHome, json: bool) -> None:
    """Print the silos, when they were last seen, and the jobs with the owners' decisions."""
    silos, jobs = silo_rows(home), job_rows(home)
    if json:
        return emit("status", silos=silos, jobs=jobs)
    table = Sheet("silo", "seen", "version", "address", "compare", title="silos")
    for one in silos:
        seen = one["seen_s_ago"]
        when = "never" if seen is None else "now" if seen < _NOW_S else f"{_ago(seen)} ago"
        table.add(one["silo"], when, one["version"] or "", one["address"] or "", one["compare"])
    show_result(table if silos else "no silo is enrolled: blindsum invite NAME")
    table = Sheet("job", "digest", "state", "owners", "note", title="jobs", text=True)
    for job in jobs:
        owners = ", ".join(f"{name} {verdict}" for name, verdict in job["owners"].items())
        table.add(job["job"], job["digest"][:8], job["state"], owners, job["note"] or "")
    show_result(table if jobs else "no job is proposed: blindsum propose JOB.YAML")
    return None


def silo_rows(home: CoordinatorHome) -> list[dict[str, Any]]:
    """Return what is known of each enrolled silo. `compare` is what its owner was shown, too."""
    own, now = home.identity.public, time.time()
    return [
        {
            "silo": one.name,
            "identity": fingerprint(one.identity),
            "compare": short_fingerprint(own, one.identity),
            "seen_s_ago": None if one.seen is None else now - one.seen,
            "version": one.version,
            "address": one.address,
        }
        for one in home.registry.silos().values()
    ]


def job_rows(home: CoordinatorHome) -> list[dict[str, Any]]:
    """Return every proposal with its state and the owners' decisions."""
    registry = home.registry
    rows: list[dict[str, Any]] = []
    for one in registry.proposals():
        decided = registry.decisions(one.digest)
        owners = {
            name: _said(decided[name]) if name in decided else "not asked yet"
            for name in one.roster
        }
        rows.append(
            {
                "job": one.name,
                "digest": one.digest,
                "state": one.state,
                "run": one.run,
                "note": one.note,
                "owners": owners,
            }
        )
    return rows


def _said(decision: Decision) -> str:
    return f"{decision.verdict} ({decision.reason})" if decision.reason else decision.verdict


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
