"""What is odd about a silo's data is said with what it does, to nobody but its owner."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindsum.actors.messages import SiloSpec
from blindsum.actors.silo import Silo
from blindsum.actors.silo_messages import Inspection
from blindsum.pipelines.run.check import check
from blindsum.pipelines.run.output import warnings
from blindsum.platform.data.concerns import shared_records
from blindsum.platform.data.enough import NOTHING_TO_SCORE
from blindsum.platform.data.member import CONCERNS
from blindsum.platform.data.record_digests import record_digests
from blindsum.platform.data.record_sample import SampledDigests
from blindsum.platform.errors import CannotTakePart
from tests.adversary.owners import Machine
from tests.conftest import MakeJob

Change = Callable[[pa.Table], pa.Table]


def inspected(make_job: MakeJob, table: Path, *overrides: str) -> tuple[Silo, Inspection]:
    job_file = make_job(*overrides)
    silo = Silo(SiloSpec(job=job_file.job, run="r", name="alder", folder=str(job_file.folder)))
    return silo, silo.inspect()


def changed(table: pa.Table, name: str, values: object) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def huge(table: pa.Table) -> pa.Table:
    return changed(table, "mean_radius", 10**18 + np.arange(table.num_rows))


def constant(table: pa.Table) -> pa.Table:
    return changed(table, "mean_texture", np.full(table.num_rows, 19.5))


def far(table: pa.Table) -> pa.Table:
    return changed(table, "mean_texture", 1e4 + np.arange(table.num_rows) / 7)


def copies(table: pa.Table) -> pa.Table:
    thrice = pa.concat_tables([table] * 3)
    return changed(thrice, "patient", np.arange(thrice.num_rows))


def one_class(table: pa.Table) -> pa.Table:
    return changed(table, "diagnosis", ["benign"] * table.num_rows)


def one_patient(table: pa.Table) -> pa.Table:
    return changed(table, "patient", np.minimum(np.arange(table.num_rows), 60))


ODD: dict[str, tuple[Change, list[str]]] = {
    "few records": (lambda t: t.slice(0, 30), ["records to train on", "held out: figures"]),
    "one class": (one_class, ["of one class (benign)"]),
    "each three times": (copies, ["up to 3 times", "are also trained on"]),
    "a constant feature": (constant, ["mean_texture have one value"]),
    "a feature far from its center": (far, ["most values of mean_texture lie more than 5"]),
    "identifiers as a feature": (huge, ["mean_radius have integers beyond 2^53", "most values"]),
    "one key for most": (
        one_patient,
        ["held out: figures", "have one and the same fold key in 'patient'"],
    ),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_odd_is_said_with_what_it_does(
    odd: str, make_job: MakeJob, tables: dict[str, Path]
) -> None:
    change, said = ODD[odd]
    pq.write_table(change(pq.read_table(tables["alder"])), tables["alder"])
    _, inspection = inspected(make_job, tables["alder"])
    for text in said:
        assert [one for one in inspection.warnings if text in one], inspection.warnings
    assert len(inspection.warnings) == len(said), inspection.warnings


def test_ordinary_data_raise_no_concern(make_job: MakeJob, tables: dict[str, Path]) -> None:
    assert inspected(make_job, tables["alder"])[1].warnings == ()


@pytest.mark.parametrize("gap", ["", " ", "NA", "null", "?"])
def test_fold_keys_that_stand_for_none_are_counted(
    gap: str, make_job: MakeJob, tables: dict[str, Path]
) -> None:
    table = pq.read_table(tables["alder"])
    keys = [gap if i < 3 else f"p{i}" for i in range(table.num_rows)]
    pq.write_table(changed(table, "patient", keys), tables["alder"])
    _, inspection = inspected(make_job, tables["alder"], "data.folds.key=text")
    (said,) = inspection.warnings
    assert said.startswith("3 records have a fold key in 'patient' that stands for none")


def test_tasks_with_labels_of_one_kind_are_named(
    make_job: MakeJob, tables: dict[str, Path]
) -> None:
    table = pq.read_table(tables["alder"])
    table = table.append_column("toxic", pa.array(np.ones(table.num_rows, np.int64)))
    table = table.append_column("active", pa.array(np.arange(table.num_rows) % 2))
    pq.write_table(table, tables["alder"])
    tasks = "data.tasks={toxic: {}, active: {}}"
    _, inspection = inspected(make_job, tables["alder"], tasks, "data.target=null")
    (said,) = inspection.warnings
    assert said.startswith("training labels of one kind only in toxic:")


def test_a_run_that_nobody_can_score_is_said_before_it_spends(
    make_job: MakeJob, tables: dict[str, Path]
) -> None:
    """One positive record in each silo: no figure would ever be computed."""
    table = pq.read_table(tables["alder"])
    rare = (np.arange(table.num_rows) == 0).astype(int)
    pq.write_table(table.append_column("toxic", pa.array(rare)), tables["alder"])
    job = ("data.tasks={toxic: {}}", "data.target=null")
    _, inspection = inspected(make_job, tables["alder"], *job)
    assert NOTHING_TO_SCORE in inspection.warnings
    both = {"alder": inspection, "birch": inspection}
    (said,) = [text for text in warnings(make_job(*job).job, both) if "no silo can" in text]
    assert "spend its whole budget" in said
    both["birch"] = replace(inspection, warnings=())
    assert not [text for text in warnings(make_job(*job).job, both) if "no silo can" in text]


def test_only_the_owner_learns_what_is_odd(
    make_job: MakeJob, tables: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(one_class(pq.read_table(tables["alder"])), tables["alder"])
    machine = Machine(tmp_path, ["alder"], {"tumours": tables["alder"]}, monkeypatch)
    machine.write(approved_jobs_only=False)
    job_file = make_job("silos.alder.data=tumours", "silos.alder.state=null")
    silo = Silo(SiloSpec(job=job_file.job, run="r", name="alder", folder=""))
    inspection = silo.inspect()
    assert inspection.owned and inspection.warnings == ()
    written = machine.state / "runs" / "r" / CONCERNS
    assert "of one class (benign)" in written.read_text()
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert not [text for text in warnings(job_file.job, {"alder": inspection}) if "class" in text]
    written.chmod(0o644)
    Silo(SiloSpec(job=job_file.job, run="r", name="alder", folder="")).inspect()
    assert stat.S_IMODE(written.stat().st_mode) == 0o600, "whatever mode a leftover file has"
    tables["alder"].write_bytes(b"no table")
    with pytest.raises(CannotTakePart):
        Silo(SiloSpec(job=job_file.job, run="r", name="alder", folder="")).inspect()
    assert not written.exists(), "it would be about another table"


def test_records_in_two_silos_are_found_where_both_tables_are(
    make_job: MakeJob, tables: dict[str, Path]
) -> None:
    alder, birch = (pq.read_table(tables[name]) for name in ("alder", "birch"))
    more = alder.slice(10, 20)
    more = changed(more, "patient", np.arange(90_000, 90_020))  # their keys differ
    pq.write_table(pa.concat_tables([birch, more]), tables["birch"])
    (said,) = check(make_job(), None).concerns
    assert said.startswith("alder and birch have 20 records in common")


@given(st.lists(st.integers(0, 5), max_size=30), st.lists(st.integers(0, 5), max_size=30))
@settings(max_examples=60, deadline=None)
def test_two_silos_share_what_both_contain(a: list[int], b: list[int]) -> None:
    def digests(values: list[int]) -> SampledDigests:
        return SampledDigests(record_digests(pa.table({"x": pa.array(values, pa.int64())}))[0])

    found = shared_records({"a": digests(a), "b": digests(b)}).values()
    both = len(set(a) & set(b))
    assert [f"have {both} record" in text for text in found] == ([True] if both else [])


def test_a_record_has_one_digest_whatever_the_types_of_its_columns() -> None:
    plain = pa.table({"n": pa.array([1, 0, None]), "t": pa.array(["a", "b", None])})
    other = pa.table(
        {
            "t": pa.array(["a", "b", None]).dictionary_encode(),
            "n": pa.array([1.0, -0.0, float("nan")]),
        }
    )
    (found, _), (same, _) = record_digests(plain), record_digests(other)
    assert found.tolist() == same.tolist() and len(set(found.tolist())) == 3
