"""The picture of a job: what it says, that it fits, and that no name can change how it looks.

`BLINDSUM_DRAW=1 pytest` of this file draws the kept pictures anew, to be read before a commit.
"""

from __future__ import annotations

import copy
import html
import io
import json
import os
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

import blindsum
from blindsum.pipelines.run.check import check, show_check
from blindsum.pipelines.run.job_picture import JobPicture, planned_picture
from blindsum.platform.job.file import JobFile, load_job, make_job
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import Accountant
from tests.conftest import MakeJob, job_content

ROOT = Path(__file__).resolve().parents[2]
KEPT = Path(__file__).parent / "pictures"


def drawn(content: dict[str, Any], width: int = 100, **sections: Any) -> str:
    """Return the picture of a job with other sections."""
    return planned_picture(made(content, **sections)).as_text(width)


def made(content: dict[str, Any], **sections: Any) -> JobFile:
    return make_job(content | sections, Path.cwd())


def flat(picture: str) -> str:
    """Return a picture's words, without its lines."""
    return " ".join(picture.replace("│", " ").split())


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    return job_content(tmp_path)


def of_example(name: str) -> JobPicture:
    """Return the picture that `blindsum check` shows on a machine without an owner's file."""
    job_file = load_job(ROOT / "examples" / name / "job.yaml")
    return replace(planned_picture(job_file), owned=dict.fromkeys(job_file.job.roster, False))


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["solubility", "heart"])
def test_an_example_looks_as_when_a_person_last_read_it(name: str, width: int) -> None:
    picture = of_example(name).as_text(width)
    path = KEPT / f"{name}-{width}.txt"
    if os.environ.get("BLINDSUM_DRAW"):
        path.write_text(picture + "\n", encoding="utf-8")
    assert picture + "\n" == path.read_text(encoding="utf-8")
    assert max(map(cell_len, picture.splitlines())) <= min(width, 100)


def test_the_first_examples_page_shows_its_picture() -> None:
    page = (ROOT / "examples" / "solubility" / "README.md").read_text(encoding="utf-8")
    picture = (KEPT / "solubility-80.txt").read_text(encoding="utf-8")
    assert textwrap.indent(picture, "    ") in page


# What goes in, what is predicted, what is held out.

COLUMNS = {"gene_*": {"center": 1}, "age": {}, "sex": {"categories": ["m", "f"]}}
FEATURES: dict[str, tuple[dict[str, Any], str]] = {
    "columns": (
        {"kind": "columns", "columns": {"age": {}, "sex": {"categories": ["m", "f"]}}},
        "2 columns that become 3 inputs: age, sex",
    ),
    "patterns": (
        {"kind": "columns", "names": [f"gene_{i}" for i in range(3000)], "columns": COLUMNS},
        "3,002 columns that become 3,003 inputs: gene_* (3,000), age, sex",
    ),
    "many columns": (
        {"kind": "columns", "columns": {f"c{i}": {} for i in range(1000)}},
        "1,000 columns: c0, c1, c2, c3, c4, c5, c6, c7 and 992 more",
    ),
    "descriptors": (
        {"kind": "descriptors", "smiles": "mol", "descriptors": ["MolWt", "TPSA"]},
        "2 descriptors of the molecule in column mol: MolWt, TPSA",
    ),
    "ecfp": (
        {"kind": "ecfp", "bits": 1024, "radius": 3},
        "a fingerprint (ECFP, 1,024 bits, radius 3) of the molecule in column smiles",
    ),
    "a set of descriptors": (
        {"kind": "descriptors", "descriptors": "all"},
        "198 descriptors of the molecule in column smiles: "
        + "MolWt, MolLogP, MolMR, TPSA, LabuteASA, HeavyAtomCount, FractionCSP3, NumHDonors and "
        + "190 more",
    ),
    "maccs": ({"kind": "maccs"}, "the 166 MACCS keys of the molecule in column smiles"),
    "kernel": (
        {"kind": "kernel", "dimensions": 16},
        "16 numbers that say which public molecules (basis nci-1) the molecule in column smiles "
        + "is like",
    ),
    "projection": (
        {"kind": "projection", "dimensions": 64},
        "counts of substructures (radius 2), projected to 64 dimensions, of the molecule in "
        + "column smiles",
    ),
    "fingerprint": (
        {"kind": "fingerprint", "bits": 2048},
        "a fingerprint of 2,048 bits, read from column fingerprint",
    ),
    "images": (
        {"kind": "images", "width": 28, "height": 32, "channels": 1},
        "pictures of 28 by 32 points, in shades of grey, from column image",
    ),
    "graphs": (
        {"kind": "graphs", "smiles": "mol", "max_atoms": 60},
        "the graph (chemprop-2, at most 60 atoms) of the molecule in column mol",
    ),
}


@pytest.mark.parametrize("kind", FEATURES)
def test_it_says_what_goes_in(content: dict[str, Any], kind: str) -> None:
    features, said = FEATURES[kind]
    content["data"]["features"] = features
    if kind == "graphs":
        content["model"] = {"kind": "dmpnn"}
    assert f"goes in {said} predicted" in flat(drawn(content))


LABELS: dict[str, tuple[dict[str, Any], str]] = {
    "classes": (
        {"target": {"column": "ill", "classes": ["yes", "no"], "class_weights": {"yes": 4}}},
        "ill, one of: yes (weight 4), no",
    ),
    "a number": ({"target": {"column": "log_s", "center": 1, "scale": 2}}, "log_s (a number)"),
    "tasks": (
        {"tasks": {"a": {"weight": 2, "positive_weight": 10}, "b": {"kind": "regression"}}},
        "2 tasks: a (yes or no, weight 2, positives' weight 10), b (a number)",
    ),
    "many tasks": (
        {"tasks": {f"t{i}": {} for i in range(1500)}},
        "1,500 tasks: " + ", ".join(f"t{i} (yes or no)" for i in range(8)) + " and 1,492 more",
    ),
}


@pytest.mark.parametrize("kind", LABELS)
def test_it_says_what_is_predicted(content: dict[str, Any], kind: str) -> None:
    labels, said = LABELS[kind]
    del content["data"]["target"]
    content["data"] |= labels
    assert f"predicted {said} held out" in flat(drawn(content))


FOLDS: dict[str, tuple[dict[str, Any], str]] = {
    "hash": (
        {"kind": "hash", "column": "patient", "salt": "s", "test_fraction": 0.125},
        "about 12.5 % of the values in column patient, with all their records",
    ),
    "scaffold": (
        {"kind": "scaffold", "salt": "s"},
        "about 20 % of the chemical series (scaffolds), the same series at every silo",
    ),
    "random": (
        {"kind": "random", "salt": "s"},
        "about 20 % of the records, chosen by a hash of their features",
    ),
    "marks": ({"kind": "column", "column": "part"}, "the records with test in column part"),
    "numbers": ({"kind": "column", "held_out": 3}, "the records with 3 in column fold"),
}


@pytest.mark.parametrize("kind", FOLDS)
def test_it_says_what_is_held_out(content: dict[str, Any], kind: str) -> None:
    folds, said = FOLDS[kind]
    content["data"] |= {"features": {"kind": "ecfp"}, "folds": folds}
    assert f"held out {said}: they test the model and never train it" in flat(drawn(content))


# What leaves a silo, and what it spends.


def test_local_and_shared_noise_and_none_differ(content: dict[str, Any]) -> None:
    local = drawn(content)
    assert "clipped for each record, with its own noise" in _left(local)
    assert "unbounded" not in local
    content["training"]["local_steps"] = 1
    shared = drawn(content, privacy=content["privacy"] | {"noise": "shared"})
    assert "clipped for each record, with its share of the noise" in _left(shared)
    none = drawn(content, privacy={"noise": "none"}, encryption={"scheme": "none"})
    assert "neither clipped nor noised" in _left(none)
    assert "NO differential privacy: epsilon is unbounded" in none
    assert "NOT encrypted: the aggregator sees each silo's update" in _left(none)
    assert "adds the silos' updates, which it can read" in flat(none) and "decrypts" not in none
    known = drawn(content, privacy=content["privacy"] | {"test_seed": 1})
    assert "noise from a known seed, which anyone can remove" in _left(known)
    assert "unbounded" in known


def _left(picture: str) -> str:
    """Return the text beside the arrow that leaves a silo."""
    lines = [line for line in picture.splitlines() if line.startswith(("  │", "  ▼"))]
    return " ".join(line[5:50].rstrip("▲│ ").strip() for line in lines)


def test_the_budgets_of_silos_that_spend_alike_are_drawn_together(content: dict[str, Any]) -> None:
    content["silos"][1]["epsilon"] = 1
    picture = flat(drawn(content))
    assert "alder, cedar: " in picture and "3.000 of 3 by round 3" in picture
    assert "birch: " in picture and "1.000 of 1 by round 3" in picture
    assert "every silo: " not in picture


def test_a_run_ends_where_the_first_budget_does(content: dict[str, Any]) -> None:
    content["silos"][1]["epsilon"] = 1.5
    content["training"]["rounds"] = 500
    privacy = content["privacy"] | {"noise_multiplier": 2.0}
    picture = planned_picture(made(content, privacy=privacy))
    last = picture.plans["birch"].rounds_within_budget
    assert picture.rounds == last < picture.plans["alder"].rounds_within_budget < 500
    text = flat(picture.as_text())
    assert f"{last} of 500 rounds, which is as far as the budget goes" in text
    assert text.count(f"by round {last}") == 2


def test_a_run_that_may_end_early_and_its_kind_of_model_are_told(content: dict[str, Any]) -> None:
    content["training"]["stop"] = {"patience": 1}
    content["data"]["features"] = {"kind": "images", "width": 8, "height": 8}
    picture = flat(drawn(content, model={"kind": "cnn", "channels": [4, 8]}))
    assert "other records; it ends early if the held-out figures stop improving" in picture
    assert "cnn with layers of 4, 8 channels (tanh), 498 parameters" in picture
    content["data"]["features"] = {"kind": "graphs"}
    picture = flat(drawn(content, model={"kind": "dmpnn", "hidden": 8, "ffn": [4, 3]}))
    assert "dmpnn of depth 3 with messages of 8, then hidden layers of 4 x 3 (relu)" in picture


def test_bars_rise_to_the_limit(content: dict[str, Any]) -> None:
    content["training"]["rounds"] = 40
    picture = drawn(content)
    (bars,) = [line.split()[1] for line in picture.splitlines() if "█" in line]
    assert len(bars) == 20 and list(bars) == sorted(bars) and bars[0] < "▄" and bars[-1] == "█"


def test_bars_end_at_the_limit_where_a_bound_lies_above_it(
    content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accountant, "epsilon_after", lambda self, rounds: 4.5)
    picture = drawn(content, privacy=content["privacy"] | {"epsilon": 3.25})
    assert " ███  every silo: 4.500 by round 1, 3.2" in picture


def test_a_budget_without_a_plan_is_named(content: dict[str, Any]) -> None:
    picture = flat(drawn(content, privacy=content["privacy"] | {"epsilon": 1e-5}))
    assert "at most 1e-05 over all rounds" in picture and "linear, 10 parameters" in picture


def test_noised_figures_and_rare_evaluations_are_told(content: dict[str, Any]) -> None:
    privacy = content["privacy"] | {"metrics_epsilon": 2, "metrics_every": 3}
    picture = flat(drawn(content, privacy=privacy))
    assert "after every 3 rounds" in picture and "epsilon 2 at delta 0.0001" in picture
    assert "without noise" in flat(drawn(content))


def test_of_thirty_silos_the_rest_are_counted(content: dict[str, Any]) -> None:
    silos = [{"name": f"silo-{i}", "data": f"table-{i}", "epsilon": 1 + i % 9} for i in range(30)]
    privacy = content["privacy"] | {"epsilon": 9, "noise_multiplier": 5.0}
    picture = drawn(content, silos=silos, quorum=20, privacy=privacy)
    assert "silo-7 " in picture and "table-8" not in picture and "and 22 more" in picture
    assert "at least 20 of 30 silos in every round" in flat(picture)
    assert "silo-0, silo-9, silo-18, silo-27: " in picture
    assert "and 3 other budgets, of 9 silos" in picture and picture.count("by round 1,") == 6


def test_owners_files_are_told_where_they_are_known(content: dict[str, Any]) -> None:
    job = Job.model_validate(content)
    owned = {"alder": True, "birch": False, "cedar": False}
    lines = JobPicture(job=job, rounds=3, owned=owned).as_text().splitlines()
    assert [line.split()[2:4] for line in lines[3:5]] == [
        ["in", "force"],
        ["none", "birch.parquet"],
    ]
    assert "owner's file" not in JobPicture(job=job, rounds=3).as_text()
    silos = [{"name": f"silo-{i}", "data": f"table-{i}"} for i in range(12)]
    owned = {f"silo-{i}": i > 9 for i in range(12)}
    many = JobPicture(job=made(content, silos=silos).job, rounds=3, owned=owned)
    assert "and 4 more in force at 2" in flat(many.as_text())


def test_private_tasks_change_nothing(content: dict[str, Any]) -> None:
    """Not even that a silo has some: the picture goes to everyone."""
    content["model"] = {"kind": "mlp", "hidden": [8]}
    del content["data"]["target"]
    content["data"]["tasks"] = {"ill": {}}
    without = drawn(content)
    content["silos"][0]["private_tasks"] = "secret.yaml"
    assert drawn(content) == without
    del content["data"]["tasks"]
    alone = flat(drawn(content))
    assert "no label that all silos know" in alone and "secret" not in alone


# How it fits.

ODD = st.text(
    st.sampled_from("a*[]/:on│█ \t\n\r\x1b\x07\u202e\u200d\u0301漢字ｶ😀é") | st.characters(),
    max_size=80,
)


def odd_job(names: list[str], folder: Path) -> dict[str, Any]:
    content = copy.deepcopy(job_content(folder))
    columns = {f"{i}{name.replace('*', '')}": {} for i, name in enumerate(names)}
    content["data"]["features"] = {"kind": "columns", "columns": columns}
    classes = [f"{i}{name}" for i, name in enumerate(names)]
    content["data"]["target"] = {"column": f"t{names[0]}", "classes": classes}
    content["data"]["folds"]["column"] = f"f{names[-1]}"
    return content


@given(
    names=st.lists(ODD, min_size=2, max_size=12),
    data=st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=120),
    width=st.integers(40, 130),
)
@example(names=["\x1b[2J\x1b[31m", "[/]", "[bold]x[/bold]"], data="漢" * 90, width=80)
@example(names=["漢" * 60, "x" * 500], data="/" + "d" * 300, width=41)
def test_no_line_is_wider_than_the_console_and_no_name_controls_it(
    names: list[str], data: str, width: int
) -> None:
    content = odd_job(names, Path("/none"))
    content["silos"][0]["data"] = data
    picture = JobPicture(job=Job.model_validate(content), rounds=3)
    lines = picture.as_text(width).split("\n")
    assert all(cell_len(line) <= width for line in lines)
    assert all(line.isprintable() for line in lines)
    inside = [line for line in lines if line.startswith("│")]
    assert all(line.endswith("│") for line in inside)


def test_control_characters_are_shown_and_brackets_kept(content: dict[str, Any]) -> None:
    content["data"]["features"]["columns"] = {"mass[kg]": {}, "a\x1b[2Jb": {}, "\u202ec": {}}
    picture = drawn(content)
    assert r"mass[kg], a\x1b[2Jb, \u202ec" in picture


def test_a_terminal_without_unicode_gets_signs_that_it_has(content: dict[str, Any]) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=file, width=80).print(planned_picture(made(content)))
    file.flush()
    text = file.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "  v  " in text and "+" in text and "3.000 of 3" in text


# Where it is shown.


def test_check_ends_with_the_picture_and_says_nothing_twice(
    make_job: MakeJob, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    job_file = make_job()
    checked = check(job_file, None)
    show_check(job_file, checked, as_json=False)
    out = capsys.readouterr().out
    picture = planned_picture(job_file).as_text(100).splitlines()
    lines = out.splitlines()
    begin = lines.index(picture[0])
    assert lines[-1].startswith("This job would run.") and lines[-3] == picture[-1]
    shown = [line for line in lines[begin:-2] if "parquet" not in line and "its table" not in line]
    assert shown == [line for line in picture if "parquet" not in line and "its table" not in line]
    for once in (
        "0.0001",
        "of 3 by round",
        "10 parameters",
        " up and ",
        "owner's file",
        "3 rounds",
    ):
        assert out.count(once) == 1, once
    show_check(job_file, checked, as_json=True)
    (line,) = capsys.readouterr().out.splitlines()
    assert "╭" not in line and json.loads(line)["event"] == "check"


def test_a_notebook_shows_the_same_picture_of_a_job(content: dict[str, Any]) -> None:
    content["data"]["target"]["column"] = "<script>"
    job = blindsum.Job(content, folder=Path.cwd())
    shown = job._repr_html_()
    assert "<script>" not in shown and shown.startswith("<pre ")
    assert html.unescape(shown[shown.index(">") + 1 : -len("</pre>")]) == drawn(content)
