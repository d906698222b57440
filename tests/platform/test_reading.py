"""Tables as pandas, databases and spreadsheets write them are read with the right values."""

from __future__ import annotations

import bz2
import datetime
import gzip
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

from blindsum.platform.data.files.arrow_types import plain
from blindsum.platform.data.preparation.recipe import Recipe, Sources
from blindsum.platform.data.preparation.tables import _with_dates_as_text, read_tables
from blindsum.platform.data.reading import read_table
from blindsum.platform.errors import DataError
from blindsum.platform.job.csv_section import CsvSection

COLUMNS = ("age", "bp", "diagnosis", "patient_id")
AGES = [51.3, 40.0, 62.7, 38.1]
TABLE = pd.DataFrame(
    {
        "age": AGES,
        "bp": [120, 135, 90, 101],
        "diagnosis": ["ill", "healthy", "ill", "ill"],
        "patient_id": ["007", "008", "009", "010"],
    }
)
TEXTS = ("patient_id",)
EUROPE = CsvSection(decimal=",")


def write_sdf(path: Path) -> None:
    path.write_text(SDF)


def partitioned(path: Path) -> Path:
    table = pa.Table.from_pandas(TABLE.assign(site=["a", "b"] * 2))
    pyarrow.parquet.write_to_dataset(table, path, partition_cols=["site"])
    (path / "_SUCCESS").touch()
    (path / ".part.crc").write_bytes(b"\0")
    return path


def of_many_files(path: Path) -> Path:
    path.mkdir()
    for i in range(4):
        TABLE.iloc[i : i + 1].to_parquet(path / f"part-{i:05d}.snappy.parquet", index=False)
    return path


def without_endings(path: Path) -> Path:
    path.mkdir()
    TABLE.iloc[:2].to_parquet(path / "000000_0", index=False)
    TABLE.iloc[2:].to_parquet(path / "000001_0", index=False)
    return path


def arrow_stream(path: Path) -> Path:
    table = pa.Table.from_pandas(TABLE)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return path


def zstd(path: Path) -> Path:
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(TABLE.to_csv(index=False, sep="\t").encode())
    return path


def sized(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


WRITERS: dict[str, tuple[Any, CsvSection | None]] = {
    "a.parquet": (lambda p: TABLE.to_parquet(p), None),
    "a.PARQUET": (lambda p: TABLE.to_parquet(p), None),
    "a": (lambda p: TABLE.to_parquet(p), None),
    "a.feather": (lambda p: TABLE.to_feather(p), None),
    "b.feather": (lambda p: pyarrow.feather.write_feather(TABLE, str(p), "zstd"), None),
    "a.arrow": (arrow_stream, None),
    "a.csv": (lambda p: TABLE.to_csv(p, index=False), None),
    "UPPER.CSV": (lambda p: TABLE.to_csv(p, index=False), None),
    "a.tsv": (lambda p: TABLE.to_csv(p, index=False, sep="\t"), None),
    "a.csv.gz": (lambda p: sized(p, gzip.compress(TABLE.to_csv(index=False).encode())), None),
    "a.CSV.BZ2": (lambda p: sized(p, bz2.compress(TABLE.to_csv(index=False).encode())), None),
    "a.tsv.zst": (zstd, None),
    "semicolon.csv": (
        lambda p: TABLE.to_csv(p, index=False, sep=";"),
        CsvSection(delimiter=";"),
    ),
    "comma.csv": (lambda p: TABLE.to_csv(p, index=False, sep=";", decimal=","), EUROPE),
    "comma.tsv": (lambda p: TABLE.to_csv(p, index=False, sep="\t", decimal=","), EUROPE),
    "bar.csv": (lambda p: TABLE.to_csv(p, index=False, sep="|"), CsvSection(delimiter="|")),
    "sep.csv": (lambda p: sized(p, "sep=;\r\n" + TABLE.to_csv(index=False, sep=";")), None),
    "bom.csv": (lambda p: sized(p, "\ufeffsep=,\n" + TABLE.to_csv(index=False)), None),
    "utf16.csv": (
        lambda p: TABLE.to_csv(p, index=False, encoding="utf-16"),
        CsvSection(encoding="utf-16"),
    ),
    "end.csv": (lambda p: sized(p, TABLE.to_csv(index=False) + ",,,\n,,,\n"), None),
    "folder": (of_many_files, None),
    "hive": (without_endings, None),
    "sites": (partitioned, None),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_table_has_its_values_from_every_kind_of_file(name: str, tmp_path: Path) -> None:
    write, section = WRITERS[name]
    write(tmp_path / name)
    read = read_table(tmp_path / name, TEXTS, section).select(COLUMNS).sort_by("patient_id")
    assert read.to_pydict() == TABLE.to_dict("list")


def test_folders_become_columns_and_keep_their_zeros(tmp_path: Path) -> None:
    read = read_table(partitioned(tmp_path / "t"))
    assert sorted(zip(*read.select(["patient_id", "site"]).to_pydict().values(), strict=True)) == [
        ("007", "a"),
        ("008", "b"),
        ("009", "a"),
        ("010", "b"),
    ]
    for site in ("007", "010"):
        (tmp_path / "u" / f"site={site}").mkdir(parents=True)
        TABLE.to_parquet(tmp_path / "u" / f"site={site}" / "x.parquet")
    assert set(read_table(tmp_path / "u", ["site"])["site"].to_pylist()) == {"007", "010"}
    assert set(read_table(tmp_path / "u")["site"].to_pylist()) == {7, 10}


def test_a_file_in_a_folder_named_so_has_no_column_of_it(tmp_path: Path) -> None:
    partitioned(tmp_path / "t")
    (path,) = (tmp_path / "t" / "site=a").iterdir()
    assert "site" not in read_table(path).column_names


def test_files_of_a_folder_may_differ_in_types(tmp_path: Path) -> None:
    """The first has a column without values, and whole numbers."""
    (tmp_path / "t").mkdir()
    for i, one in enumerate([{"x": [None], "y": [1]}, {"x": ["a"], "y": [2.5]}]):
        pyarrow.parquet.write_table(pa.table(one), tmp_path / "t" / f"{i}.parquet")
    assert read_table(tmp_path / "t").to_pydict() == {"x": [None, "a"], "y": [1.0, 2.5]}


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ("_delta_log/0.json", "in the format Delta"),
        (".hoodie/x", "in the format Hudi"),
        ("metadata/v1.metadata.json", "in the format Iceberg"),
        ("_temporary/0/x", "still being written"),
    ],
)
def test_folders_whose_files_are_not_their_table_are_refused(
    inside: str, said: str, tmp_path: Path
) -> None:
    folder = of_many_files(tmp_path / "t")
    (folder / inside).parent.mkdir(parents=True)
    (folder / inside).touch()
    with pytest.raises(DataError, match=said):
        read_table(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.xlsx", "is a spreadsheet.*Save its sheet as CSV"),
        ("A.XLS", "is a spreadsheet"),
        ("a.json", r"not of a kind that Blindsum reads.*\.parquet.*\.csv.*\.sdf"),
        ("a.csv.zip", "not of a kind"),
        ("a.sdf.zip", "not of a kind"),
    ],
)
def test_other_kinds_are_refused_with_the_way_out(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 something")
    with pytest.raises(DataError, match=said):
        read_table(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no Parquet files"):
        read_table(tmp_path / "empty")


def test_latin_1_and_cp1252_are_read_when_the_job_says_so(tmp_path: Path) -> None:
    for encoding in ("latin-1", "cp1252"):
        path = tmp_path / f"{encoding}.csv"
        path.write_bytes("âge,nom\n1.5,Zoé\n".encode(encoding))
        read = read_table(path, ["nom"], CsvSection(encoding=encoding))
        assert read.to_pydict() == {"âge": [1.5], "nom": ["Zoé"]}
        with pytest.raises(DataError, match="cannot be read as CSV") as caught:
            read_table(path, ["nom"])
        assert "Zo" not in str(caught.value) and "data.csv.encoding: cp1252" in caught.value.at_silo


def test_null_values_are_missing_in_numbers_and_text(tmp_path: Path) -> None:
    path = sized(tmp_path / "n.csv", "x,t\n-999,n/k\n1,a\n,\n")
    read = read_table(path, csv=CsvSection(null_values=["-999", "n/k"]))
    assert read.to_pydict() == {"x": [None, 1], "t": [None, "a"]}, "the last row is empty"
    path = sized(tmp_path / "d.csv", "x,t\nNA,NA\n1,a\n")
    assert read_table(path).to_pydict() == {"x": [None, 1], "t": ["NA", "a"]}


def test_cells_may_have_line_breaks_and_rows_may_be_longer_than_a_block(tmp_path: Path) -> None:
    path = sized(tmp_path / "q.csv", 'x,t\n1,"a\nb"\n2,c\n')
    assert read_table(path).to_pydict() == {"x": [1, 2], "t": ["a\nb", "c"]}
    names = [f"{i:0>700}" for i in range(2000)]
    wide = sized(tmp_path / "w.csv", ",".join(names) + "\n" + ",".join(["1.5"] * 2000) + "\n")
    assert wide.stat().st_size > 2**20 and read_table(wide).shape == (1, 2000)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"delimiter": ";;"}, "one character"),
        ({"delimiter": "a"}, "one character"),
        ({"delimiter": ",", "decimal": ","}, "are both ','"),
        ({"encoding": "klingon"}, "no known encoding"),
        ({"encoding": "zip"}, "no known encoding"),
        ({"encoding": "a\0b"}, "no known encoding"),
    ],
)
def test_impossible_settings_are_refused(changed: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CsvSection.model_validate(changed)


def test_settings_of_csv_files_cross_to_other_clusters_unchanged() -> None:
    given = CsvSection(delimiter="\t", encoding="latin-1", null_values=["-"])
    assert CsvSection.model_validate_json(given.model_dump_json()) == given


def of_type(array: pa.Array, expected: str) -> Any:
    return plain(pa.table({"x": array}), {"x": expected}, Path("t.parquet"))["x"]


LONG = Decimal("1234567890123456789.123456789")


@pytest.mark.parametrize(
    ("array", "expected", "values", "type_"),
    [
        (pa.array(["a", None, "a"]).dictionary_encode(), "text", ["a", None, "a"], pa.string()),
        (pa.array([1.5, 2, 1.5]).dictionary_encode(), "a number", [1.5, 2, 1.5], pa.float64()),
        (pa.array(["a", None], pa.string_view()), "text", ["a", None], pa.large_string()),
        (pa.array(["é", None], pa.binary()), "text", ["é", None], pa.large_string()),
        (pa.array([b"ab"], pa.binary_view()), "text", ["ab"], pa.large_string()),
        (pa.array([b"ab"], pa.binary(2)), "text", ["ab"], pa.large_string()),
        (pa.array([b"ab"]).dictionary_encode(), "text", ["ab"], pa.large_string()),
        (pa.array([Decimal("50.1"), None]), "a number", [50.1, None], pa.float64()),
        (pa.array([LONG], pa.decimal128(38, 9)), "a number", [float(LONG)], pa.float64()),
        (pa.array([LONG], pa.decimal256(70, 9)), "a number", [float(LONG)], pa.float64()),
        (pa.array([Decimal(7)], pa.decimal128(9, 0)), "an integer", [7], pa.int64()),
        (pa.array([True, None]), "a number", [1, None], pa.int8()),
        (pa.array([1.5, None], pa.float16()), "a number", [1.5, None], pa.float32()),
        (pa.array([1, None], pa.int64()), "a number", [1, None], pa.int64()),
        (pa.array([[1, 2]], pa.large_list(pa.int32())), "lists of integers", [[1, 2]], None),
        (pa.array([[1, 2]], pa.list_view(pa.int32())), "lists of integers", [[1, 2]], None),
        (pa.array([[1, 2]], pa.list_(pa.int32(), 2)), "lists of integers", [[1, 2]], None),
        (
            pa.array([uuid.UUID(int=7).bytes], pa.uuid()),
            "text",
            ["00000000-0000-0000-0000-000000000007"],
            pa.string(),
        ),
        (
            pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array([1.5, 2.0])),
            "a number",
            [1.5, 1.5, 2.0],
            pa.float64(),
        ),
        # not changed: their meaning would
        (pa.array([17]), "text", [17], pa.int64()),
        (pa.array([True]), "text", [True], pa.bool_()),
        (pa.array([True]), "an integer", [True], pa.bool_()),
        (pa.array(["1"]), "a number", ["1"], pa.string()),
    ],
)
def test_arrow_types_become_what_they_stand_for(
    array: pa.Array, expected: str, values: list[Any], type_: pa.DataType | None
) -> None:
    found = of_type(array, expected)
    assert found.to_pylist() == values
    assert found.type == (type_ or pa.list_(pa.int32()))


def test_bytes_that_are_not_utf_8_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column 'x' is text stored as bytes that are not UTF-8"):
        of_type(pa.array([b"Zo\xe9"]), "text")


def test_arrow_files_with_wrong_offsets_are_refused(tmp_path: Path) -> None:
    """Arrow does not look at them when it reads, and would use foreign memory as text."""
    text = pa.array(["abc", "defg"])
    pyarrow.feather.write_feather(pa.table({"x": text}), str(tmp_path / "a.arrow"), "uncompressed")
    content, right = (tmp_path / "a.arrow").read_bytes(), np.array([0, 3, 7], np.int32).tobytes()
    assert content.count(right) == 1
    wrong = np.array([0, 3, 2**30], np.int32).tobytes()
    (tmp_path / "a.arrow").write_bytes(content.replace(right, wrong))
    with pytest.raises(DataError, match="cannot be read as Arrow"):
        read_table(tmp_path / "a.arrow")


# -- molecules ----------------------------------------------------------------------------

ETHANOL = """


  3  2  0  0  0  0            999 V2000
    0.0000    0.0000    0.0000 C   0  0
    1.5000    0.0000    0.0000 C   0  0
    2.2500    1.2990    0.0000 O   0  0
  1  2  1  0
  2  3  1  0
M  END
"""
SDF = (
    f"mol-1{ETHANOL}> <logP>  (1)\n-0.31\n\n>  <code>\n007\n\n> <note>\ntwo\nlines\n\n$$$$\n"
    f"mol-2{ETHANOL.replace(' O ', ' S ')}> <logP>\n1\n\n> <code>\n017\n\n$$$$\r\n"
    "broken\n\n\n  nonsense\nM  END\n> <logP>\n\n> <code>\n018\n"
)


@pytest.mark.parametrize("ending", ["sdf", "SDF", "sdf.gz"])
def test_molecules_of_an_sdf_have_smiles_and_properties(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"m.{ending}"
    path.write_bytes(gzip.compress(SDF.encode()) if ending.endswith("gz") else SDF.encode())
    assert read_table(path, ["code"]).to_pydict() == {
        "smiles": ["CCO", "CCS", ""],
        "title": ["mol-1", "mol-2", "broken"],
        "logP": [-0.31, 1.0, None],
        "code": ["007", "017", "018"],
        "note": ["two\nlines", "", ""],
    }


def test_a_property_called_smiles_gives_way_to_the_structure(tmp_path: Path) -> None:
    path = sized(tmp_path / "m.sdf", f"{ETHANOL}> <smiles>\nCCCC\n\n$$$$\n")
    notes: list[str] = []
    assert read_table(path, note=notes.append).to_pydict() == {"smiles": ["CCO"]}
    assert "property smiles was left out" in notes[0]


# -- preparation --------------------------------------------------------------------------


def test_a_preparation_reads_sdf_and_says_at_the_silo_what_a_csv_looks_like(tmp_path: Path) -> None:
    sized(tmp_path / "c.sdf", SDF)
    sized(tmp_path / "a.csv", "compound;assay;value\nmol-1;7;5,5\nmol-2;7;6,25\n")
    said: dict[str, Any] = {
        "compounds": {"file": "c.sdf", "compound": "title"},
        "activities": {"file": "a.csv", "one_unit": "none"},
    }
    recipe = Recipe.model_validate({"features": {"kind": "ecfp"}, "tasks": {"7": {}}})
    with pytest.raises(DataError) as caught:
        read_tables(Sources.model_validate(said), recipe, tmp_path)
    assert "5,5" not in str(caught.value) and 'data.csv.decimal: ","' in caught.value.at_silo
    found = read_tables(Sources.model_validate(said | {"csv": {"decimal": ","}}), recipe, tmp_path)
    assert found.measurements["value"].tolist() == [5.5, 6.25]
    assert found.compounds["compound"].tolist() == ["mol-1", "mol-2", "broken"]
    assert found.compounds["smiles"].tolist() == ["CCO", "CCS", ""]


def test_dates_where_text_is_expected_are_iso_8601() -> None:
    days = [datetime.datetime(2024, 1, 5), None]
    table = pa.table({"d": pa.array(days, pa.timestamp("us"))})
    assert _with_dates_as_text(table, "d")["d"].to_pylist() == ["2024-01-05", None]
    table = pa.table({"d": pa.array([datetime.datetime(2024, 1, 5, 7, 30)], pa.timestamp("s"))})
    assert _with_dates_as_text(table, "d")["d"].to_pylist() == ["2024-01-05 07:30:00"]
