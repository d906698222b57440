"""Patterns for many columns, and the settings of gaps, categories and dates in a job file."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_core import PydanticCustomError

from blindsum.platform.errors import JobError
from blindsum.platform.job import name_patterns
from blindsum.platform.job.features_section import Columns
from blindsum.platform.job.file import load_job
from blindsum.platform.job.name_patterns import expanded
from blindsum.platform.job.schema import Job
from blindsum.platform.job.yaml_reader import dump
from blindsum.platform.state.approval import job_digest
from tests.conftest import job_content

NAMES = ["gene_b", "gene_a", "age", "protein_1", "visit"]
SCALED = {"center": 2.0, "scale": 3.0}


def written(folder: Path, features: dict[str, Any]) -> Path:
    content = job_content(folder)
    content["data"]["features"] = {"kind": "columns"} | features
    path = folder / "job.yaml"
    path.write_text(dump(content))
    return path


def columns(job: Job) -> dict[str, Any]:
    assert isinstance(job.data.features, Columns)
    return {name: (one.center, one.scale) for name, one in job.data.features.columns.items()}


def listed(folder: Path, text: bytes) -> dict[str, str]:
    (folder / "names.txt").write_bytes(text)
    return {"file": "names.txt", "sha256": hashlib.sha256(text).hexdigest()}


def test_a_pattern_stands_for_its_names_in_their_order(tmp_path: Path) -> None:
    patterns = {"gene_*": SCALED, "age": {"center": 50.0, "scale": 9.0}, "*_1": {}}
    expected = {
        "gene_b": (2.0, 3.0),
        "gene_a": (2.0, 3.0),
        "age": (50.0, 9.0),
        "protein_1": (0.0, 1.0),
    }
    inline = load_job(written(tmp_path, {"columns": patterns, "names": NAMES}))
    assert columns(inline.job) == expected and list(columns(inline.job)) == list(expected)
    reference = listed(tmp_path, "\ufeff".encode() + "\r\n".join([*NAMES, ""]).encode())
    by_file = load_job(written(tmp_path, {"columns": patterns, "names": reference}))
    out = {n: {"center": c, "scale": s} for n, (c, s) in expected.items()}
    plain = load_job(written(tmp_path, {"columns": out}))
    assert by_file.job == inline.job == plain.job
    assert "gene_*" not in by_file.job.model_dump_json()
    assert job_digest(by_file.job) == job_digest(inline.job) == job_digest(plain.job)
    # A copy of the file elsewhere, as a submitted job, needs no list.
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "job.yaml"
    copy.write_text(by_file.text)
    assert load_job(copy).job == by_file.job
    assert Job.model_validate(by_file.job.model_dump()) == by_file.job


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("*", NAMES),
        ("g*e_*", ["gene_b", "gene_a"]),
        ("*e*", ["gene_b", "gene_a", "age", "protein_1"]),
        ("gene_a*", ["gene_a"]),  # no text is text too
        ("**_1", ["protein_1"]),
        ("*e*e_a", ["gene_a"]),
        ("*_*_*", []),
        ("gene_*gene_a", []),  # parts of a pattern do not overlap
    ],
)
def test_every_star_is_any_text(pattern: str, matches: list[str]) -> None:
    if not matches:
        with pytest.raises(PydanticCustomError, match="matches none"):
            expanded({pattern: 1}, NAMES)
    else:
        assert list(expanded({pattern: 1}, NAMES)) == matches


def test_neither_many_names_nor_many_stars_take_long() -> None:
    """Silos and coordinators check jobs that others wrote."""
    names = [f"gene_{i}" for i in range(20_000)]
    started = time.perf_counter()
    assert len(expanded({"gene_*": 1}, names)) == len(names)
    with pytest.raises(PydanticCustomError, match="'gene_19999' twice"):
        expanded({"gene_*": 1}, [*names, names[-1]])
    with pytest.raises(PydanticCustomError, match="matches none"):
        expanded({"*a" * 20 + "*b": 1}, ["a" * 200])
    assert time.perf_counter() - started < 2, "a fraction of a second, not many or for ever"


def test_the_digest_covers_every_name(tmp_path: Path) -> None:
    pattern = {"gene_*": SCALED}
    digests = [
        job_digest(load_job(written(tmp_path, {"columns": pattern, "names": names})).job)
        for names in (NAMES, NAMES[:1], [*NAMES, "gene_c"], ["age"] + NAMES[:2])
    ]
    assert len(set(digests)) == 3 and digests[0] == digests[3]  # unused names do not count


GENES: dict[str, Any] = {"gene_*": {}}


@pytest.mark.parametrize(
    ("features", "line", "said"),
    [
        ({"columns": GENES}, "gene_", "a pattern needs the agreed names"),
        ({"columns": {"age": {}, "snp_*": {}}, "names": NAMES}, "snp_", "matches none of"),
        ({"columns": GENES | {"*_a": {}}, "names": NAMES}, "_a", "'gene_a' is also meant by"),
        (
            {"columns": GENES | {"gene_a": {}}, "names": NAMES},
            "gene_a",
            "is also meant by 'gene_*'",
        ),
        ({"columns": {"age": {}}, "names": NAMES}, "columns:", "no use without a column with *"),
        ({"columns": GENES, "names": [*NAMES, "age"]}, "columns:", "names has 'age' twice"),
        ({"columns": GENES, "names": ["gene_*"]}, "columns:", "a name cannot contain *"),
        ({"columns": GENES, "names": {"file": "x"}}, "names:", "neither a list of names nor"),
        ({"columns": GENES, "names": {"file": "x", "sha256": "0"}}, "names:", "cannot be read"),
        ({"columns": GENES, "names": "x"}, "names:", "valid list"),
        ({"columns": {"gene_*": {"scale": 0}}, "names": NAMES}, "scale: 0", "greater than 0"),
    ],
)
def test_a_fault_has_its_line_and_what_to_do(
    features: dict[str, Any], line: str, said: str, tmp_path: Path
) -> None:
    path = written(tmp_path, features)
    lines = path.read_text().splitlines()
    first = next(i for i, text in enumerate(lines) if text.startswith("  features"))
    number = next(i for i, text in enumerate(lines, 1) if i > first and line in text)
    with pytest.raises(JobError) as caught:
        load_job(path)
    assert f"job.yaml, line {number}: data.features" in str(caught.value)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1  # once, not for every name


def test_another_list_than_the_agreed_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = listed(tmp_path, b"gene_a\n")
    path = written(tmp_path, {"columns": GENES, "names": reference})
    (tmp_path / "names.txt").write_bytes(b"gene_a\ngene_b\n")
    with pytest.raises(JobError, match="not the agreed list"):
        load_job(path)
    path = written(tmp_path, {"columns": GENES, "names": listed(tmp_path, b"gene_\xff\n")})
    with pytest.raises(JobError, match="not text in UTF-8"):
        load_job(path)
    path = written(tmp_path, {"columns": GENES, "names": listed(tmp_path, b"gene_a\n" * 9)})
    monkeypatch.setattr(name_patterns, "MOST_BYTES", 20)
    with pytest.raises(JobError, match="longer than 64 MiB"):
        load_job(path)


def test_a_job_as_silos_receive_it_opens_no_file(tmp_path: Path) -> None:
    """Else a job could look for files on a silo's disk."""
    content = yaml.safe_load(written(tmp_path, {"columns": GENES}).read_text())
    content["data"]["features"]["names"] = listed(tmp_path, b"gene_a\n")
    with pytest.raises(ValueError, match="valid list"):
        Job.model_validate(content)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({"missing": {}}, "give value, or indicator: true, or both"),
        ({"missing": {"indicator": True}}, "missing.value is required"),
        ({"missing": {"value": "50"}}, "'50' in missing is not a number"),
        ({"missing": {"value": 0, "codes": ["none"]}}, "'none' in missing is not a number"),
        ({"missing": {"value": float("nan")}}, "nan in missing is not a number"),
        ({"other": True}, "other goes with categories"),
        ({"categories": ["a"]}, "one category is the same for all records"),
        ({"categories": ["a", "a"]}, "named twice"),
        ({"categories": ["a", 1]}, "must be all text, all integers"),
        ({"categories": [1, 2**60]}, "beyond 2^53"),
        ({"categories": ["a", "b"], "scale": 2.0}, "do not go with categories"),
        ({"categories": ["a", "b"], "date": {"since": "2020-01-01"}}, "do not go with"),
        ({"categories": ["a", "b"], "missing": {"value": "c"}}, "must be one of the categories"),
        ({"categories": ["a", "b"], "missing": {"value": "a", "codes": [9]}}, "text or numbers"),
        (
            {"categories": [1, 2], "missing": {"value": 1, "codes": [2]}},
            "both a category and a code",
        ),
        ({"date": {"since": "1.2.2020"}}, "is not a date: write YYYY-MM-DD"),
        ({"date": {"since": "2020-01-01"}, "missing": {"value": 3}}, "3 is not a date"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    column: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(JobError) as caught:
        load_job(written(tmp_path, {"columns": {"x": column}}))
    assert said in str(caught.value) and "data.features.columns" in str(caught.value)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({"centre": 1}, "x.centre: unknown key. Did you mean 'center'?"),
        ({"missing": {"valeu": 1}}, "x.missing.valeu: unknown key. Did you mean 'value'?"),
        ({"date": {"form": "iso"}}, "x.date.form: unknown key. Known keys: since."),
    ],
)
def test_a_misspelt_key_has_its_name_even_in_a_column_called_as_a_setting(
    column: dict[str, Any], said: str, tmp_path: Path
) -> None:
    for name in ("x", "date", "missing", "center"):
        with pytest.raises(JobError) as caught:
            load_job(written(tmp_path, {"columns": {name: column}}))
        assert said.replace("x.", f"columns.{name}.", 1) in str(caught.value)


def test_a_job_keeps_its_digest_on_its_way(tmp_path: Path) -> None:
    """YAML makes dates of dates, and silos receive JSON, which has none."""
    text = """
      seen: {date: {since: 2020-01-01}, missing: {value: 2020-02-01, codes: [1900-01-01]}}
      sex: {categories: [m, f], other: true, missing: {indicator: true, codes: [unknown]}}
      age: {center: 50, scale: 10, missing: {value: 50.0, codes: [-9]}}
    """
    path = written(tmp_path, {"columns": yaml.safe_load(text)})
    assert "since: 2020-01-01" in path.read_text()  # a date, without quotes
    job = load_job(path).job
    again = Job.model_validate_json(job.model_dump_json())
    assert job_digest(again) == job_digest(job) == job_digest(Job.model_validate(job.model_dump()))
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump(job.model_dump(mode="json")))
    assert job_digest(load_job(copy).job) == job_digest(job)


def test_columns_without_the_new_settings_are_dumped_as_before() -> None:
    section = Columns.model_validate({"kind": "columns", "columns": {"x": {"center": 1}}})
    assert section.model_dump_json() == (
        '{"kind":"columns","columns":{"x":{"center":1.0,"scale":1.0}}}'
    )
