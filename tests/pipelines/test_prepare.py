"""`blindsum prepare` on real files and a real Ray: resumed, cached, compared, trained on."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import ray
import yaml
from typer.testing import CliRunner

from blindsum.pipelines.cli.app import app
from blindsum.pipelines.preparation import stage_cache
from blindsum.pipelines.preparation.prepare import prepare
from blindsum.pipelines.preparation.stage_cache import StageCache
from blindsum.platform.data.preparation.recipe import Structures, load_recipe
from blindsum.platform.data.preparation.secret import make_secret, read_secret
from blindsum.platform.data.preparation.stages import FAILED, Fingerprints, Standardise
from blindsum.platform.data.table import load_data
from blindsum.platform.errors import BlindsumError, DataError
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.private_tasks import read_private_tasks

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "assays" / "prepare"
CANARY = "CANARY7C1CC"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    make_secret(tmp_path / "secret")
    return tmp_path / "secret"


def prepared(silo: str, secret: Path, tmp_path: Path, **more: object) -> Path:
    out = tmp_path / f"of-{silo}"
    prepare(EXAMPLE / "recipe.yaml", EXAMPLE / f"{silo}.yaml", secret, out, quiet=True, **more)  # type: ignore[arg-type]
    return out


@pytest.mark.usefixtures("cluster")
def test_silos_prepare_alike_and_what_they_wrote_is_what_a_job_reads(
    secret: Path, tmp_path: Path
) -> None:
    alder = prepared("alder", secret, tmp_path)
    birch = prepared("birch", secret, tmp_path, against=[alder / "manifest.json"])
    text = (alder / "data.yaml").read_text()
    assert text == (birch / "data.yaml").read_text() and "assay_1" not in text
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in birch.iterdir())
    assert not list(birch.glob("*.partial"))
    contract = DataSection.model_validate(yaml.safe_load(text)["data"])
    own = read_private_tasks(birch / "private_tasks.yaml", contract.inputs)
    assert list(own) == ["assay_1", "assay_2", "assay_3"]
    data = load_data(birch / "records.parquet", contract, tmp_path / "rejects", own)
    report = json.loads((birch / "report.json").read_text())
    assert len(data.train) + len(data.test) == report["records"] > 300
    assert data.train.labels.shape[1:] == (2, 5) and data.train.width == 4096
    table = pyarrow.parquet.read_table(birch / "records.parquet")
    held_out = sum(f == 0 for f in table["fold"].to_pylist())
    assert len(data.test) == held_out and "smiles" not in table.column_names
    assert all(isinstance(number, int) for number in _numbers(report))
    _require_keyed(table, secret)


def _require_keyed(table: pa.Table, secret: Path) -> None:
    """Bits and folds in the table are those of its molecules, by the secret."""
    smiles = pyarrow.parquet.read_table(EXAMPLE / "../data/birch.parquet")["smiles"].to_pylist()
    key, recipe = read_secret(secret), load_recipe(EXAMPLE / "recipe.yaml")
    assert recipe.features.kind == "ecfp"
    order = key.order(4096)
    for row in table.slice(0, 40).to_pylist():
        texts = [smiles[int(name)] for name in row["compounds"]]
        found = Standardise(recipe.structures).compute(texts).to_pylist()
        assert len({one["structure"] for one in found}) == 1
        assert row["fold"] == key.fold(found[0]["scaffold"], 5)
        bare = Fingerprints(recipe.features).compute([found[0]["structure"]])["fingerprint"][0]
        assert row["fingerprint"] == sorted(order[bare.as_py()]) != bare.as_py()


def _numbers(report: dict[str, object]) -> list[object]:
    found: list[object] = []
    for value in report.values():
        found += _numbers(value) if isinstance(value, dict) else [value]
    return found


@pytest.mark.usefixtures("cluster")
def test_a_job_refuses_a_table_that_was_prepared_otherwise(secret: Path, tmp_path: Path) -> None:
    out = prepared("cedar", secret, tmp_path)
    content = yaml.safe_load((out / "data.yaml").read_text())["data"]
    content["prepared"]["features"] = "0" * 16
    path = out / "records.parquet"
    with pytest.raises(DataError, match="not prepared as data.prepared says: different features"):
        load_data(path, DataSection.model_validate(content), tmp_path / "r")
    content["prepared"]["secret"] = "0" * 16
    with pytest.raises(DataError, match="says: different secret"):
        load_data(path, DataSection.model_validate(content), tmp_path / "r")
    bare = tmp_path / "bare.parquet"
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.replace_schema_metadata(None), bare)
    with pytest.raises(DataError, match="was not written by blindsum prepare"):
        load_data(bare, DataSection.model_validate(content), tmp_path / "r")
    del content["prepared"]
    positions = [[*row, 4096] for row in table["fingerprint"].to_pylist()]
    place = table.column_names.index("fingerprint")
    wrong = table.set_column(place, "fingerprint", pa.array(positions, pa.list_(pa.int32())))
    pyarrow.parquet.write_table(wrong, bare)
    with pytest.raises(DataError, match="not ascending positions from 0 to 4095"):
        load_data(bare, DataSection.model_validate(content), tmp_path / "r")


@pytest.mark.usefixtures("cluster")
def test_rows_at_fault_are_listed_for_the_silo_and_in_nothing_that_leaves_it(
    secret: Path, tmp_path: Path
) -> None:
    """A ChEMBL export with several units and relations, and a racemate beside its enantiomer."""
    (tmp_path / "compounds.csv").write_text(
        "compound,smiles\n1,C[C@H](O)c1ccccc1\n2,C[C@H](O)c1ccccc1 |&1:1|\n3,CCO\n"
        "4,[CH3:1][OH:2]\n5,CO\n"
    )
    text = (
        f"1,7,100,nM,'='\n2,7,50,uM,=\n3,7,10,uM,>>\n3,7,5,{CANARY},=\n"
        "4,7,1,uM,~\n5,7,32.042,ug/mL,\n"
    )
    (tmp_path / "activities.csv").write_text(
        f"compound,assay,value,standard_units,standard_relation\n{text}"
    )
    recipe, sources, out = (tmp_path / name for name in ("recipe.yaml", "sources.yaml", "out"))
    recipe.write_text(
        "features: {kind: ecfp, bits: 64}\ntasks: {'7': {kind: regression, transform: p_molar}}\n"
        "quorum: {classes: 1, values: 1, uncensored: 1}\n"
    )
    told = "compounds: {file: compounds.csv}\nactivities: {file: activities.csv, %s}\n"
    sources.write_text(told % "unit: standard_units, qualifier: standard_relation")
    prepare(recipe, sources, secret, out, quiet=True)
    rows = pyarrow.parquet.read_table(out / "records.parquet").to_pylist()
    found = {"+".join(row["compounds"]): (round(row["7"], 3), row["7_side"]) for row in rows}
    assert found == {"1": (7, "="), "2": (4.301, "="), "3": (5, "<"), "4+5": (3, "=")}
    listed = out / "rejected_rows.csv"
    assert listed.stat().st_mode & 0o777 == 0o600
    assert listed.read_text().splitlines() == [
        "row,assay,reason",
        "4,7,in a unit that does not convert",
        "5,7,about a number (~)",
    ]
    assert json.loads((out / "report.json").read_text())["dropped_units"] == {CANARY: 1}
    for name in ("data.yaml", "manifest.json"):
        assert CANARY not in (out / name).read_text() and "row" not in (out / name).read_text()
    (tmp_path / "activities.csv").write_text("compound,assay,value\n1,7,100\n")
    sources.write_text(told % "one_unit: nM")
    prepare(recipe, sources, secret, out, quiet=True)
    assert not listed.exists()


class Fragile(Standardise):
    """Kills its process at one molecule, as RDKit may."""

    @property
    def key(self) -> str:
        return "fragile"

    def compute(self, texts: Sequence[str]) -> pa.Table:
        if CANARY in texts:
            os._exit(11)
        return super().compute(texts)


class Quoting(Standardise):
    """Fails with a message that quotes a molecule."""

    @property
    def key(self) -> str:
        return "quoting"

    def compute(self, texts: Sequence[str]) -> pa.Table:
        if texts:
            raise ValueError(f"cannot read {texts[0]}")
        return super().compute(texts)


@pytest.mark.usefixtures("cluster")
def test_a_molecule_that_kills_its_process_is_counted_and_the_others_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_cache, "CHUNK", 2)
    texts, steps = ["C", CANARY, "CC"], []
    cache = StageCache(Fragile(Structures()), tmp_path / "cache")
    cache.run(texts, 2, steps.append)
    assert sum(steps) == 3 and cache.missing(texts) == []
    assert [row["dropped"] for row in cache.table(texts).to_pylist()] == [None, FAILED, None]
    assert not list((tmp_path / "cache").glob("work-*"))


@pytest.mark.usefixtures("cluster")
def test_results_are_kept_and_what_is_damaged_is_computed_again(tmp_path: Path) -> None:
    cache = StageCache(Standardise(Structures()), tmp_path / "cache")
    cache.run(["C", "CC"], 2, lambda _: None)
    cache.run(cache.missing(["C", "CC", "CCC"]), 2, lambda _: None)
    parts = sorted(cache._folder.glob("part-*"))
    assert len(parts) == 2 and all(p.stat().st_mode & 0o777 == 0o600 for p in parts)
    assert cache.missing(["CCC", "CC", "C"]) == []
    for part in parts:
        if pyarrow.parquet.read_table(part).num_rows == 2:
            part.write_bytes(part.read_bytes()[:100])
    assert cache.missing(["C", "CC", "CCC"]) == ["C", "CC"]
    (part,) = [p for p in cache._folder.glob("part-*")]
    content = bytearray(part.read_bytes())
    content[len(content) // 3] ^= 1
    part.write_bytes(content)
    assert cache.missing(["CCC"]) == ["CCC"]
    left = (
        tmp_path / "cache" / f"work-{stage_cache._HOST}-999999999-0.arrow"
    )  # of a run that was killed
    left.write_text(CANARY)
    cache.run(["CCCC"], 1, lambda _: None)
    assert not left.exists()
    other = StageCache(Standardise(Structures(tautomer=True)), tmp_path / "cache")
    assert other.missing(["CCCC"]) == ["CCCC"]


@pytest.mark.usefixtures("cluster")
def test_no_molecule_goes_through_ray_or_into_its_logs(tmp_path: Path) -> None:
    cache = StageCache(Quoting(Structures()), tmp_path / "cache")
    with pytest.raises(BlindsumError) as error:
        cache.run([CANARY], 1, lambda _: None)
    assert CANARY not in str(error.value) and "message is withheld" in str(error.value)
    cache = StageCache(Standardise(Structures()), tmp_path / "cache")
    cache.run([CANARY], 1, lambda _: None)
    assert cache.table([CANARY])["dropped"].to_pylist() == ["unparsable"]
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    found = subprocess.run(
        ["grep", "-rl", CANARY, logs], check=False, capture_output=True, text=True
    )
    assert found.stdout == "" and list(logs.iterdir())


@pytest.mark.usefixtures("cluster")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    cache = StageCache(Standardise(Structures()), tmp_path / "cache")
    with pytest.raises(DataError, match="cannot be written"):
        cache.run(["C"], 1, lambda _: None)


@pytest.mark.usefixtures("cluster")
def test_the_command_reports_counts_and_names_what_differs(
    secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The stdout of this process is the test runner's.
    monkeypatch.setattr("blindsum.pipelines.cli.app.keep_stdout", lambda: None)

    def run(recipe: Path, *more: str) -> tuple[int, str]:
        told = ["prepare", str(recipe), str(EXAMPLE / "alder.yaml"), "--secret", str(secret)]
        found = CliRunner().invoke(app, [*told, "--out", str(tmp_path / "out"), *more])
        return found.exit_code, f"{found.output} {found.exception or ''}"

    code, said = run(EXAMPLE / "recipe.yaml", "--json")
    assert code == 0 and json.loads(said.splitlines()[0])["records"] > 300
    other = tmp_path / "other.yaml"
    other.write_text((EXAMPLE / "recipe.yaml").read_text().replace("4096", "2048"))
    code, said = run(other, "--against", str(tmp_path / "out" / "manifest.json"))
    assert code == 1 and "features.bits: 2048 here, 4096 there" in said
    other.write_text(
        (EXAMPLE / "recipe.yaml")
        .read_text()
        .replace("classes: 10", "classes: 9999")
        .replace("values: 25", "values: 9999")
    )
    code, said = run(other)
    assert code == 1 and "nothing is left to train on" in said
