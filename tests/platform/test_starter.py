"""The starter file: every commented alternative is valid in the place of what it replaces."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from blindsum.platform.job.file import load_job
from blindsum.platform.job.schema import Job

STARTER = files("blindsum.pipelines.cli").joinpath("starter.yaml").read_text()
SETTING = re.compile(r"^( *)# ( *)(\w+):( .*)?$")
INSTEAD = {"tasks": "target"}


def alternatives() -> dict[str, list[int]]:
    """Return the commented settings: the line numbers of each group, by its keys."""
    groups: list[list[int]] = []
    for number, line in enumerate(STARTER.splitlines()):
        if not SETTING.match(line):
            continue
        if not groups or groups[-1][-1] != number - 1:
            groups.append([])
        groups[-1].append(number)
    found = {}
    for group in groups:
        keys = [m for n in group if (m := SETTING.match(STARTER.splitlines()[n]))]
        found[", ".join(m[3] for m in keys if not m[2])] = group
    return found


def with_alternative(group: list[int]) -> str:
    """Uncomment a group, and comment out the settings in whose place it stands."""
    lines = STARTER.splitlines()
    for number in group:
        match = SETTING.match(lines[number])
        assert match
        lines[number] = lines[number].replace("# ", "", 1)
        if not match[2]:
            key = INSTEAD.get(match[3], match[3])
            taken_out(lines, f"{match[1]}{key}:", len(match[1]), group)
    return "\n".join(lines)


def taken_out(lines: list[str], start: str, indent: int, group: list[int]) -> None:
    inside = False
    for number, line in enumerate(lines):
        deep = len(line) - len(line.lstrip()) > indent
        inside = (line.startswith(start) and number not in group) or (inside and deep)
        if inside:
            lines[number] = "#"


def test_the_alternatives_are_found() -> None:
    expected = {"class_weights, missing", "target", "tasks", "unlabelled", "folds"}
    expected |= {"metrics_epsilon", "training, privacy", "deadlines", "tracking", "runs", "range"}
    assert expected <= set(alternatives())


@pytest.mark.parametrize("name", alternatives())
def test_an_alternative_is_valid(name: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    text = with_alternative(alternatives()[name])
    path.write_text(text)
    changed = load_job(path).job
    path.write_text(STARTER)
    if name not in ("deadlines", "range", "runs"):  # these show the defaults
        assert changed != load_job(path).job
    assert_is(name, changed)


def assert_is(name: str, job: Job) -> None:
    tasks = job.data.tasks or {}
    kinds = [task.kind for task in tasks.values()]
    expected = {"target": ["regression"], "tasks": ["binary", "binary", "regression"]}
    assert kinds == expected.get(name, [])
    assert (job.privacy.noise == "shared") == (name == "training, privacy")
    assert (job.data.folds.kind == "random") == (name == "folds")
