"""`blindsum doctor`: look at this machine, and say what to mend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from blindsum.pipelines.cli.options import FileOption, JsonOption, interruptible
from blindsum.pipelines.show.console import console, emit, keep_stdout, show_result

if TYPE_CHECKING:
    from blindsum.pipelines.doctor.finding import Check, Finding

_STYLES = {"ok": "green", "warn": "yellow", "bad": "bold red"}


@interruptible
def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not try Ray and MLflow: seconds less.")
    ] = False,
    file: FileOption = None,
    json: JsonOption = False,
) -> None:
    """Check this machine for what would make a run fail, and say what to mend. Exit status 1 if
    anything is bad."""
    keep_stdout()
    bad = False
    for one in _findings(quick, file):
        bad = bad or one.state == "bad"
        emit("checked", **asdict(one)) if json else _show(one)
    if bad:
        raise typer.Exit(1)


def _findings(quick: bool, file: Path | None) -> Iterator[Finding]:
    from blindsum.pipelines.doctor import installation, machine, services
    from blindsum.pipelines.doctor.finding import examined
    from blindsum.platform.errors import BlindsumError

    try:
        owner = services.owner_of(file)
    except BlindsumError:
        owner = None  # `owners_file` says what is wrong with it
    state = owner.state if owner else None
    checks: dict[str, Check] = {
        "Python": installation.python,
        "packages": installation.packages,
        "memory": machine.memory,
        "disk": partial(machine.disks, state),
        "/dev/shm": machine.shared_memory,
        "ports": machine.ports,
        "proxies": machine.proxies,
        "clock": machine.clock,
        "owner's file": partial(services.owners_file, file),
    }
    if owner and owner.file.coordinator:
        coordinator = owner.file.coordinator
        checks["coordinator"] = partial(services.coordinators_clock, owner, coordinator)
    if not quick:
        checks |= {"Ray": services.local_ray, "MLflow": services.local_mlflow}
    for name, check in checks.items():
        if name in ("Ray", "MLflow", "coordinator"):
            console.print(f"trying {name}", style="dim")
        yield from examined(name, check)


def _show(one: Finding) -> None:
    show_result(
        Text.assemble((f"{one.state:<5}", _STYLES[one.state]), f"{one.name}: {one.said}"),
        soft_wrap=True,
    )
    if one.mend:
        show_result(f"     {one.mend}", soft_wrap=True)
