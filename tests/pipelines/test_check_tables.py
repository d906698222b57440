"""`blindsum check` on tables as people have them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
import pytest

from blindsum.pipelines.run.check import check, show_check
from blindsum.platform.errors import BlindsumError
from tests.conftest import MakeJob


def test_check_prints_what_only_the_silo_is_told(
    make_job: MakeJob, tables: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    table = pyarrow.parquet.read_table(tables["alder"])
    names = ["Mean_Radius" if name == "mean_radius" else name for name in table.column_names]
    pyarrow.parquet.write_table(table.rename_columns(names), tables["alder"])
    with pytest.raises(BlindsumError, match="column 'mean_radius' is missing") as caught:
        check(make_job(), None)
    printed = capsys.readouterr().err
    assert "told to silo 'alder' alone: " in printed and "'Mean_Radius'" in printed
    assert "Mean_Radius" not in str(caught.value) and "silo 'birch' alone" not in printed


def test_check_says_how_many_workers_share_a_table(
    make_job: MakeJob, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job("silos.alder.workers=2", "silos.cedar.workers=5")
    checked = check(job, None)
    show_check(job, checked, as_json=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "workers that share a silo's table, in its own Ray: alder 2, cedar 5" in said
    show_check(job, checked, as_json=True)
    silos = json.loads(capsys.readouterr().out)["silos"]
    assert [silos[name]["workers"] for name in silos] == [2, 1, 5]
    show_check(plain := make_job(), check(plain, None), as_json=False)
    assert "workers that share" not in capsys.readouterr().out


@pytest.mark.usefixtures("cluster")
def test_check_on_this_machine_takes_no_notice_of_an_attached_ray(make_job: MakeJob) -> None:
    """That Ray also runs other organisations' silos, where workers are refused."""
    assert set(check(make_job("silos.alder.workers=2"), None).inspections) >= {"alder"}


def test_check_refuses_workers_for_a_csv(make_job: MakeJob, tables: dict[str, Path]) -> None:
    path = tables["birch"].with_suffix(".csv")
    pyarrow.csv.write_csv(pyarrow.parquet.read_table(tables["birch"]), path)
    with pytest.raises(BlindsumError, match="several workers cannot share it. Write the table as"):
        check(make_job("silos.birch.data=birch.csv", "silos.birch.workers=2"), None)


def test_silos_may_have_their_tables_in_different_kinds_of_files(
    make_job: MakeJob, tables: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    table = pyarrow.parquet.read_table(tables["alder"])
    folder = tables["alder"].with_name("alder")
    folder.mkdir()
    for i in range(3):
        pyarrow.parquet.write_table(table.slice(50 * i, 50), folder / f"part-{i}.parquet")
    path = tables["birch"].with_name("birch.CSV")
    pyarrow.csv.write_csv(pyarrow.parquet.read_table(tables["birch"]), path)
    path.write_text(path.read_text() + "," * (table.num_columns - 1) + "\n")
    checked = check(make_job("silos.alder.data=alder", "silos.birch.data=birch.CSV"), None)
    assert set(checked.inspections) == {"alder", "birch", "cedar"}
    assert "told to silo 'birch' alone: birch.CSV: rows 151 to 151" in capsys.readouterr().err
