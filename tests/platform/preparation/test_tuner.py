"""What was prepared for MELLODDY-TUNER becomes a preparation of Blindsum with the same meaning."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from blindsum.pipelines.cli.app import app
from blindsum.platform.data.preparation.assemble import labels_of, structures_of
from blindsum.platform.data.preparation.recipe import load_recipe, load_sources
from blindsum.platform.data.preparation.report import Report
from blindsum.platform.data.preparation.secret import Secret, make_secret
from blindsum.platform.data.preparation.stages import Standardise
from blindsum.platform.data.preparation.tables import read_tables
from blindsum.platform.data.preparation.tuner.imported import imported
from blindsum.platform.data.preparation.tuner.parameters import parameters_of, run_files_of
from blindsum.platform.data.preparation.tuner.thresholds import Measured, adme, dose_response
from blindsum.platform.errors import BlindsumError, DataError
from blindsum.platform.job.file import load_job
from tests.fuzz.mutation import mutants

PARAMETERS: dict[str, Any] = {
    "standardization": {
        "max_num_tautomers": 0,
        "max_num_atoms": 100,
        "include_stereoinfo": False,
    },
    "fingerprint": {"radius": 3, "hashed": True, "fold_size": 32000, "binarized": True},
    "scaffold_folding": {"nfolds": 5},
    "credibility_range": {
        "OTHER": {"min": 3.0, "max": 10.0},
        "NON-CATALOG-PANEL": {"min": 3.0, "max": 10.0},
        "CATALOG-PANEL": {"min": 3.0, "max": 10.0},
        "ADME": {"min": -1e12, "max": 1e12},
        "AUX_HTS": {"min": -10.0, "max": 10.0},
        "std": {"min": 1e-12},
    },
    "training_quorum": {
        "regression": {
            "OTHER": {"num_total": 3, "num_uncensored_total": 2},
            "ADME": {"num_total": 3, "num_uncensored_total": 2},
        },
        "classification": {
            "OTHER": {"num_active_total": 1, "num_inactive_total": 1},
            "NON-CATALOG-PANEL": {"num_active_total": 1, "num_inactive_total": 1},
            "ADME": {"num_active_total": 1, "num_inactive_total": 1},
            "AUX_HTS": {"num_active_total": 1, "num_inactive_total": 2},
        },
        "CATALOG-PANEL": {"num_total": 3, "num_active_fold_min": 1, "num_inactive_fold_min": 1},
    },
    "evaluation_quorum": {"classification": {}},
    "initial_task_weights": {"AUX_HTS": 0.1},
    "global_thresholds": {"AUX_HTS": 3.0},
    "censored_downweighting": {"knock_in_barrier": 0.05},
    "lsh": {"nfolds": 5, "bits": [1, 2]},
}
T0 = """\
input_assay_id,assay_type,use_in_regression,is_binary,expert_threshold_1,expert_threshold_2,\
expert_threshold_3,expert_threshold_4,expert_threshold_5,direction,catalog_assay_id,parent_assay_id
egfr,OTHER,True,False,6,,,,,,,
herg,CATALOG-PANEL,False,False,,,,,,high,PANEL1,
clearance,ADME,False,False,20,,,,,low,,
screen,AUX_HTS,False,False,,,,,,,,
screen_low,AUX_HTS,False,False,,,,,,low,,
ames,OTHER,False,True,,,,,,,,
"""
T1 = "input_compound_id,input_assay_id,standard_qualifier,standard_value\n"
T2 = "input_compound_id,smiles\n"
T_CAT = """\
catalog_assay_id,catalog_task_id,threshold,threshold_method,META_NAME
PANEL1,1,5,expert,hERG
PANEL1,2,6,expert,hERG
"""
MOLECULES = ["CCO", "CCN", "CCCl", "c1ccccc1C", "c1ccccc1CC", "c1ccncc1C"]
"""Ethanol and others; the fourth and the fifth have one scaffold."""


def measured() -> str:
    """Return T1: six compounds in six assays; a bound, a repeat and a number out of range."""
    rows = {
        "egfr": ["=,5.0", ">,6.5", "<,6.2", "=,7.0", "=,5.8", "=,99"],
        "herg": ["=,4.5", "=,5.5", "=,6.5", "=,6.0", "", ""],
        "clearance": ["=,5", "=,50", "=,20", "", "", ""],
        "screen": ["=,-4", "=,1", "=,3", "=,-2.9", "=,0", ""],
        "screen_low": ["=,-4", "=,1", "=,5", "=,-3", "=,0", ""],
        "ames": ["=,1", "=,-1", "=,1", "=,-1", "", ""],
    }
    lines = [
        f"c{i},{assay},{value}"
        for assay, values in rows.items()
        for i, value in enumerate(values)
        if value
    ]
    return T1 + "\n".join(lines) + "\n"


def example(folder: Path, **files: str) -> Path:
    """Write TUNER's files, and return the path of the run parameters."""
    structures = T2 + "".join(f"c{i},{text}\n" for i, text in enumerate(MOLECULES))
    content = {"T0.csv": T0, "T1.csv": measured(), "T2.csv": structures, "T_cat.csv": T_CAT}
    content["parameters.json"] = json.dumps(PARAMETERS)
    run = {
        "structure_file": "T2.csv",
        "activity_files": ["T1.csv"],
        "weight_tables": ["T0.csv"],
        "catalog_file": "T_cat.csv",
        "config_file": "parameters.json",
        "key_file": "key.json",
        "output_dir": "out",
        "run_name": "example",
        "using_auxiliary": "yes",
        "folding_method": "scaffold",
    }
    content["run.json"] = json.dumps(run)
    folder.mkdir(exist_ok=True)
    for name, text in (content | files).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "run.json"


def command(*arguments: object) -> tuple[int, str, str]:
    """Return a command's status, stdout and stderr."""
    done = CliRunner().invoke(app, [str(one) for one in ("import", "tuner", *arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def prepared(folder: Path) -> tuple[dict[str, dict[str, float]], pd.DataFrame, Report]:
    """Return the labels of an import's own files, by task and SMILES, the structures' scaffolds,
    and the report; without Ray."""
    recipe, sources = load_recipe(folder / "recipe.yaml"), load_sources(folder / "sources.yaml")
    tables, report = read_tables(sources, recipe, folder), Report()
    standard = Standardise(recipe.structures).compute(sorted(set(tables.compounds["smiles"])))
    compounds = structures_of(tables, standard.to_pandas(), report)
    labels = labels_of(tables, compounds, recipe.tasks, recipe.quorum, report)
    found: dict[str, dict[str, float]] = {}
    for row in labels.itertuples():
        found.setdefault(str(row.task), {})[str(row.structure)] = float(row.value)
    return found, standard.to_pandas(), report


def test_the_example_has_the_labels_that_tuner_gives(tmp_path: Path) -> None:
    out = tmp_path / "imported"
    status, said, _ = command(example(tmp_path / "tuner"), "--out", out)
    assert status == 0 and "shared: of the catalogue" in said
    found, _, report = prepared(out)
    # An expert's threshold has one more half a unit below and above it. At 5.5, "< 6.2" may be
    # either class; at 6.5, "> 6.5" is a positive.
    assert found["egfr_6"] == {"CCO": 0, "CCN": 1, "Cc1ccccc1": 1, "CCc1ccccc1": 0}
    assert found["egfr_5.5"] == {"CCO": 0, "CCN": 1, "Cc1ccccc1": 1, "CCc1ccccc1": 1}
    assert found["egfr_6.5"] == {"CCO": 0, "CCN": 1, "CCCl": 0, "Cc1ccccc1": 1, "CCc1ccccc1": 0}
    assert found["egfr_value"]["CCN"] == 6.5 and len(found["egfr_value"]) == 5
    assert report.dropped_measurements["out of the credible range"] == 4
    # The catalogue's thresholds stand alone, under its own name.
    assert found["PANEL1_5"] == {"CCO": 0, "CCN": 1, "CCCl": 1, "Cc1ccccc1": 1}
    assert found["PANEL1_6"] == {"CCO": 0, "CCN": 0, "CCCl": 1, "Cc1ccccc1": 1}
    # With direction low, small numbers are positive, the threshold too.
    assert found["clearance_20"] == {"CCO": 1, "CCN": 0, "CCCl": 1}
    # A screen without a direction counts effects in both.
    assert found["screen"] == {"CCO": 1, "CCN": 0, "CCCl": 1, "Cc1ccccc1": 0, "CCc1ccccc1": 0}
    assert found["screen_low"] == {"CCO": 1, "CCN": 0, "CCCl": 0, "Cc1ccccc1": 1, "CCc1ccccc1": 0}
    assert found["ames"] == {"CCO": 1, "CCN": 0, "CCCl": 1, "Cc1ccccc1": 0}


def test_the_example_has_folds_by_scaffold(tmp_path: Path) -> None:
    command(example(tmp_path / "tuner"), "--out", tmp_path / "imported")
    _, standard, _ = prepared(tmp_path / "imported")
    recipe = load_recipe(tmp_path / "imported" / "recipe.yaml")
    scaffolds = dict(zip(standard["text"], standard["scaffold"], strict=True))
    assert scaffolds["c1ccccc1C"] == scaffolds["c1ccccc1CC"] == "c1ccccc1"
    assert scaffolds["c1ccncc1C"] == "c1ccncc1"
    folds = {Secret(bytes([i]) * 32).fold("c1ccccc1", recipe.folds.count) for i in range(40)}
    assert folds == set(range(5))


def test_the_files_say_what_tuner_s_say(tmp_path: Path) -> None:
    out, secret = tmp_path / "imported", tmp_path / "secret"
    make_secret(secret)
    run = example(tmp_path / "tuner")
    silos = ("--silo", "alder", "--silo", "birch")
    assert command(run, "--out", out, "--secret", secret, *silos)[0] == 0
    recipe = load_recipe(out / "recipe.yaml")
    assert recipe.features.kind == "ecfp"
    assert (recipe.features.radius, recipe.features.bits, recipe.folds.count) == (3, 32000, 5)
    assert not recipe.structures.stereo and not recipe.structures.tautomer
    assert {name: task.weight for name, task in recipe.tasks.items()} == {
        "PANEL1_5": 0.5,
        "PANEL1_6": 0.5,
    }
    screens = recipe.quorum.of("AUX_HTS")
    assert (screens.least_positives, screens.least_negatives) == (1, 2)
    assert recipe.quorum.of("CATALOG-PANEL").records == 3
    assert recipe.quorum.of("OTHER").deviation == 1e-12
    assays = pd.read_csv(out / "assays.csv", keep_default_na=False)
    assert set(assays.loc[assays["group"] == "AUX_HTS", "weight"]) == {"0.1"}
    assert load_sources(out / "sources.yaml").divide_weights
    job = load_job(out / "job.yaml", []).job
    assert [silo.name for silo in job.silos] == ["alder", "birch"]
    assert job.data.prepared is not None and set(job.data.tasks or {}) == set(recipe.tasks)
    assert all(path.stat().st_mode & 0o077 == 0 for path in out.iterdir())
    with pytest.raises(DataError, match="already has recipe.yaml"):
        command(run, "--out", out)


def test_parameters_alone_need_the_files(tmp_path: Path) -> None:
    folder, out = example(tmp_path / "tuner").parent, tmp_path / "imported"
    with pytest.raises(DataError, match=r"names no files.*--weights, --activities and --struct"):
        command(folder / "parameters.json", "--out", out)
    files = ("--weights", folder / "T0.csv", "--activities", folder / "T1.csv")
    files = (*files, "--structures", folder / "T2.csv")
    status, said, _ = command(folder / "parameters.json", *files, "--out", out, "--json")
    found = json.loads(said)
    assert status == 0 and found["shared_tasks"] == 0
    # Without the catalogue, thresholds of its assay follow from the silo's own measurements.
    assert found["groups"]["NON-CATALOG-PANEL"] == 3


def test_all_faults_of_the_tables_are_in_one_message(tmp_path: Path) -> None:
    t0 = T0 + (
        "egfr,OTHER,True,False,,,,,,,,\n"
        "x,OTHER,maybe,False,six,,,,,sideways,,\n"
        ",OTHER,True,False,,,,,,,,\n"
        "y,UNKNOWN,True,False,,,,,,,,\n"
    )
    catalogue = "catalog_assay_id,threshold\nPANEL1,\n"
    run = example(tmp_path / "tuner", **{"T0.csv": t0, "T_cat.csv": catalogue})
    (run.parent / "T2.csv").unlink()
    with pytest.raises(DataError) as caught:
        command(run, "--out", tmp_path / "imported")
    said = str(caught.value)
    for fault in (
        "T0.csv, row 7: the assay is already in T0.csv",
        "row 8: use_in_regression is neither true nor false; expert_threshold_1 is not a number",
        "direction is neither high nor low",
        "row 9: input_assay_id is empty",
        "T_cat.csv, row 1: no catalog_assay_id, or no threshold",
        "there is no file",
        "assay_type UNKNOWN (1 assays) is not in credibility_range, training_quorum.classif",
    ):
        assert fault in said
    assert not (tmp_path / "imported").exists()


def test_all_faults_of_the_parameters_are_in_one_message(tmp_path: Path) -> None:
    wrong = copy.deepcopy(PARAMETERS)
    wrong["fingerprint"] |= {"binarized": False, "fold_size": 10**9}
    del wrong["scaffold_folding"]
    run = example(tmp_path / "tuner", **{"parameters.json": json.dumps(wrong)})
    with pytest.raises(DataError) as caught:
        command(run, "--out", tmp_path / "imported")
    said = str(caught.value)
    assert "fingerprint.binarized: only fingerprints of bits" in said
    assert "fingerprint.fold_size: " in said and "scaffold_folding: field required" in said
    content = json.loads(run.read_text())
    run.write_text(json.dumps(content | {"folding_method": "lsh"}))
    with pytest.raises(DataError, match="folding_method: only folds by scaffold"):
        command(run, "--out", tmp_path / "imported")


@pytest.mark.parametrize(
    ("experts", "found"),
    [
        ((6.0,), [5.5, 6.0, 6.5]),
        ((5.0, 6.0), [4.5, 5.0, 6.0, 6.5]),
        ((4.0, 5.0, 6.0, 7.0), [4.0, 5.0, 6.0, 7.0]),
    ],
)
def test_up_to_three_experts_thresholds_get_neighbours(
    experts: tuple[float, ...], found: list[float]
) -> None:
    none = Measured(np.zeros(0), np.zeros(0))
    assert dose_response(experts, none, 25, 25) == found
    assert adme(experts, none, "high") == sorted(experts)


def test_without_experts_measurements_decide() -> None:
    values = np.array([8.5, 7.5, 7.2, 6.1, 5.5, 5.0, 4.0, 4.0, 4.0, 4.0])
    exact = Measured(values, np.zeros(10))
    # 8 leaves a tenth positive, 7 leaves three tenths.
    assert dose_response((), exact, 1, 1) == [6.5, 7.0, 7.5]
    assert dose_response((), exact, 4, 1) == [5.5, 6.0, 6.5]
    # No trial meets the quorum: the median.
    assert dose_response((), exact, 9, 9)[1] == pytest.approx(5.25)
    bounds = Measured(np.array([5.0, 5.0, 5.0]), np.array([-1.0, 1.0, 1.0]))
    assert dose_response((), bounds, 9, 9)[1] == pytest.approx(5 + np.log10(2))
    assert adme((), exact, "high") == [5.25, pytest.approx(6.925)]
    assert adme((), exact, "low") == [4.0, 5.25]
    assert adme((), exact, "") == [5.25]
    assert adme((), Measured(np.array([5.0]), np.zeros(1)), "high") == []


@given(
    st.lists(st.tuples(st.floats(3, 10), st.sampled_from([-1.0, 0.0, 1.0])), max_size=30),
    st.integers(0, 10),
    st.integers(0, 10),
)
@settings(deadline=None, max_examples=60)
def test_neighbours_lie_half_a_unit_from_the_middle(
    rows: list[tuple[float, float]], positives: int, negatives: int
) -> None:
    values, sides = (np.array([row[i] for row in rows]) for i in (0, 1))
    found = dose_response((), Measured(values, sides), positives, negatives)
    if rows:
        low, middle, high = found
        assert (middle - low, high - middle) == (pytest.approx(0.5), pytest.approx(0.5))
    else:
        assert found == []


@pytest.mark.parametrize("name", ["run.json", "parameters.json", "T0.csv", "T_cat.csv", "T1.csv"])
def test_damaged_files_are_refused_or_read_but_never_crash(name: str, tmp_path: Path) -> None:
    run = example(tmp_path / "tuner")
    path = run.parent / name
    good = path.read_bytes()
    for content in mutants(good, 60):
        path.write_bytes(content)
        try:
            made = imported(run_files_of(run), "assays.csv")
            yaml.safe_dump(made.recipe)
        except BlindsumError as error:
            assert "\n" not in error.what or name != "T1.csv"
    path.write_bytes(good)
    assert parameters_of(run.parent / "parameters.json").fingerprint.radius == 3
