"""`import blindsum`: jobs, runs and simulations as Python objects."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml

import blindsum
from blindsum.pipelines.interface import progress
from blindsum.pipelines.interface.progress import NotebookProgress
from blindsum.platform.errors import (
    DataError,
    JobError,
)
from blindsum.platform.job.model_section import Linear
from tests.conftest import COLUMNS, SILOS, MakeJob, job_content
from tests.platform.test_prediction import written

# MLflow talks to its users in warnings; in these tests they are not ours to mend.
Frames = dict[str, pd.DataFrame]
pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(__file__).resolve().parents[2]


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | environment,
        timeout=240,
    )


# The package.


def test_importing_blindsum_imports_nothing_slow() -> None:
    slow = ("ray", "torch", "mlflow", "pandas", "numpy", "pyarrow", "pydantic", "rich")
    code = f"import sys, blindsum; print([m for m in {slow} if m in sys.modules], dir(blindsum))"
    done = python("-c", code)
    assert done.stdout.startswith("[] "), done.stderr
    assert all(f"'{name}'" in done.stdout for name in blindsum.__all__)
    # A job can be read and checked without what a run needs.
    code = (
        "import sys, blindsum; blindsum.Job.read('examples/diagnosis/job.yaml').budgets; "
        "print([m for m in ('ray', 'torch', 'mlflow', 'pandas') if m in sys.modules])"
    )
    assert python("-c", code).stdout == "[]\n"


def test_the_public_names_are_documented_and_few() -> None:
    assert blindsum.__all__ == sorted(blindsum.__all__) and len(blindsum.__all__) <= 8
    page = (ROOT / "docs" / "python.md").read_text()
    for name in blindsum.__all__:
        found = getattr(blindsum, name)
        assert found.__doc__ and f"`blindsum.{name}" in page
        if isinstance(found, type) and found is not blindsum.BlindsumError:
            for member in [m for m in vars(found) if not m.startswith("_")]:
                assert f"`{member}" in page or f".{member}" in page, (name, member)
    with pytest.raises(AttributeError, match="no attribute 'simulated'"):
        _ = blindsum.simulated


USER_SCRIPT = """
import blindsum

job: blindsum.Job = blindsum.Job.read("job.yaml", ["privacy.epsilon=1"])
run = blindsum.simulate(job, {})
reveal_type(run)
reveal_type(run.epsilon)
reveal_type(run.model.save("m"))
reveal_type(blindsum.resume)
blindsum.run(job, adress="auto")
blindsum.run(job, progress="line")
"""


def test_a_type_checker_knows_the_names(tmp_path: Path) -> None:
    script, settings = tmp_path / "script.py", tmp_path / "mypy.ini"
    script.write_text(USER_SCRIPT)
    libraries = ("torch", "numpy", "matplotlib", "ray", "cryptography", "mlflow", "pandas")
    skipped = "".join(f"[mypy-{one}.*]\nfollow_imports = skip\n" for one in libraries)
    settings.write_text(
        f"[mypy]\nignore_missing_imports = True\nfollow_imports = silent\n"
        f"explicit_package_bases = True\nnamespace_packages = True\n{skipped}"
    )
    done = python(
        "-m",
        "mypy",
        f"--config-file={settings}",
        f"--cache-dir={tmp_path / 'cache'}",
        str(script),
        MYPYPATH=str(ROOT / "src"),
    )
    for expected in (
        '"blindsum.pipelines.interface.run.Run"',
        '"dict[str, float]"',
        '"pathlib.Path"',
        "-> blindsum.pipelines.interface.run.Run",
        'Unexpected keyword argument "adress" for "run"',
        'Argument "progress" to "run" has incompatible type',
    ):
        assert expected in done.stdout, done.stdout + done.stderr


# Jobs.


def test_a_job_of_python_objects_is_the_job_of_a_file(make_job: MakeJob, tmp_path: Path) -> None:
    file = make_job()
    read = blindsum.Job.read(str(file.path))
    content = job_content(tmp_path)
    made = blindsum.Job(content, folder=tmp_path)
    assert made == read and hash(made) == hash(read) and made != 3
    assert made.silos == SILOS and made.name == "trial" and made.folder == tmp_path
    assert yaml.safe_load(made.text) == content
    as_sections = {
        **content,
        "silos": tuple({**s, "data": Path(s["data"])} for s in content["silos"]),
        "model": Linear(kind="linear"),
        "seed": np.int64(3),
        "training": {**content["training"], "learning_rate": np.float64(0.5)},
    }
    assert blindsum.Job(**as_sections, folder=tmp_path) == read
    assert read.settings["encryption"]["scheme"] == "ckks" and read.private
    assert repr(read) == "<Job trial: silos alder, birch, cedar; epsilon 3>"


def test_overrides_make_another_job(job: blindsum.Job, tmp_path: Path) -> None:
    strict = job.override("privacy.epsilon=1", "silos.birch.epsilon=0.5")
    assert strict.budgets == {"alder": 1.0, "birch": 0.5, "cedar": 1.0}
    assert job.budgets == dict.fromkeys(SILOS, 3.0) and strict.folder == tmp_path
    open_ = job.override("privacy={noise: none}")
    assert not open_.private and set(open_.budgets.values()) == {math.inf}
    assert "no differential privacy" in repr(open_)
    with pytest.raises(JobError, match="^privacy.epsilon: input should be greater than 0"):
        job.override("privacy.epsilon=0")
    with pytest.raises(JobError, match="there is no item 'oak'"):
        job.override("silos.oak.epsilon=1")


def test_faults_of_a_job_name_the_key_and_the_mend(tmp_path: Path) -> None:
    content = job_content(tmp_path)
    content["privacy"]["epsilom"] = content["privacy"].pop("epsilon")
    content["training"]["rounds"] = 2.5
    whole = "training.rounds: input should be a valid integer. Write a whole number."
    with pytest.raises(blindsum.BlindsumError) as caught:
        blindsum.Job(content)
    assert str(caught.value).splitlines() == [
        whole,
        "privacy.epsilon: is missing. Add it.",
        "privacy.epsilom: unknown key. Did you mean 'epsilon'?",
    ]
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(JobError) as caught:
        blindsum.Job.read(path)
    for line in str(caught.value).splitlines():
        assert re.match(r"job.yaml, line \d+: ", line)

    content = job_content(tmp_path)
    content["silos"][1]["data"] = f"../{tmp_path.name}/alder.parquet"
    with pytest.raises(JobError, match="^silos alder and birch have the same data"):
        blindsum.Job(content, folder=tmp_path)
    with pytest.raises(JobError, match="the key 3 is not text"):
        blindsum.Job({3: "x"})  # type: ignore[dict-item]
    with pytest.raises(JobError, match=r"a str is not a job. .*Job.read"):
        blindsum.Job("job.yaml")  # type: ignore[arg-type]
    content["data"]["itself"] = content
    with pytest.raises(JobError, match="contains itself"):
        blindsum.Job(content)


# Results.


def test_the_model_of_a_simulation_predicts_on_frames(
    job: blindsum.Job, frames: Frames, tmp_path: Path
) -> None:
    model = blindsum.simulate(job, frames, progress=False).model
    assert model.inputs == list(COLUMNS) and model.round == 3
    records = frames["alder"].drop(columns="diagnosis").assign(remark="x")
    records = records.set_axis([f"p{i}" for i in range(len(records))])
    records.iloc[1, 0] = math.nan
    found = model.predict(records)
    assert list(found.columns) == model.outputs and list(found.index) == list(records.index)
    assert found["reason"].iloc[0] is None and found["reason"].iloc[1] == ("no mean_radius")
    assert found["predicted_diagnosis"].iloc[0] in ("malignant", "benign")
    again = model.predict(pa.Table.from_pandas(records))
    pd.testing.assert_frame_equal(again, found.reset_index(drop=True))
    with pytest.raises(DataError, match="mean_radius"):
        model.predict(records.drop(columns="mean_radius"))
    with pytest.raises(DataError, match="a list is not a table"):
        model.predict([1])  # type: ignore[arg-type]

    assert sum(p.numel() for p in model.module.parameters()) == 2 * 4 + 2
    simulated = model.statement["Threat model and trust"]["simulation"]
    assert "nobody was protected from anyone" in simulated
    path = model.save(tmp_path / "kept.blindsum")
    opened = blindsum.Model.open(path)
    pd.testing.assert_frame_equal(opened.predict(records), found)
    assert "probability_benign" in repr(opened)
    with pytest.raises(DataError, match="already exists"):
        model.save(path)
    with pytest.raises(DataError, match="cannot be written"):
        model.save(tmp_path / "no folder" / "m.blindsum")


def test_a_model_is_calibrated_to_a_users_labels(
    make_job: MakeJob, frames: Frames, tmp_path: Path
) -> None:
    model = blindsum.Model.open(written(make_job().job, tmp_path))
    labelled = frames["alder"]
    calibrated = model.calibrate(labelled)
    assert model.calibration is None and "<Model of" in repr(model)
    assert "<Calibrated model of" in repr(calibrated)
    names = ["calibrated_probability_malignant", "calibrated_probability_benign"]
    assert [name for name in calibrated.outputs if name not in model.outputs] == names
    raw, found = model.predict(labelled), calibrated.predict(labelled)
    assert (found[names].sum(axis=1) - 1).abs().max() < 1e-12
    assert raw["probability_benign"].rank().equals(found[names[1]].rank())
    figures = calibrated.calibration
    assert figures is not None and list(figures.index) == ["diagnosis"]
    row = figures.loc["diagnosis"]
    assert row["labels"] == len(labelled) and row["reason"] is None
    assert row["gain_low"] <= row["log_loss_before"] - row["log_loss_after"] <= row["gain_high"]
    of_table = model.calibrate(pa.Table.from_pandas(labelled)).calibration
    assert of_table is not None and of_table.equals(figures)
    with pytest.raises(DataError, match="the file of a released model has no calibration"):
        calibrated.save(tmp_path / "calibrated.blindsum")
    with pytest.raises(DataError, match="a list is not a table"):
        model.calibrate([1])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="diagnosis has 20 usable labels"):
        model.calibrate(labelled[:20])
    with pytest.raises(DataError, match="the labelled table: column 'mean_radius' is missing"):
        model.calibrate(labelled.drop(columns="mean_radius"))


def test_without_privacy_epsilon_is_infinite(job: blindsum.Job, frames: Frames) -> None:
    run = blindsum.simulate(job.override("privacy={noise: none}"), frames, progress=False)
    assert run.epsilon == dict.fromkeys(SILOS, math.inf)
    assert (run.history["epsilon"] == math.inf).all()
    assert "no differential privacy: epsilon is unbounded" in run._repr_html_()
    run.plot()


def test_a_plot_shows_the_figures(job: blindsum.Job, frames: Frames) -> None:
    run = blindsum.simulate(job, frames, progress=False)
    figure = run.plot()
    above, below = figure.axes
    np.testing.assert_allclose(above.lines[0].get_ydata(), run.history["accuracy"])
    np.testing.assert_allclose(below.lines[0].get_ydata(), run.history["epsilon"])
    assert "95 % interval" in [t.get_text() for t in above.get_legend().get_texts()]
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_the_table_of_a_run_is_escaped(job: blindsum.Job, frames: Frames) -> None:
    run = blindsum.simulate(job, frames, progress=False)
    assert "3 of 3 completed" in run._repr_html_() and "epsilon cedar" in run._repr_html_()
    run.summary["ended"] = run.summary["run"] = "<script>alert(1)</script>"
    assert "<script>" not in run._repr_html_() and "&lt;script&gt;" in run._repr_html_()


def test_a_run_that_broke_off_is_opened_from_its_log(
    job: blindsum.Job, frames: Frames, tmp_path: Path
) -> None:
    run = blindsum.simulate(job, frames, folder=tmp_path / "kept", progress=False)
    assert run.folder is not None
    log, summary = run.folder / "rounds.jsonl", run.folder / "summary.json"
    lines = log.read_text().splitlines()
    log.write_text("\n".join(lines[:4]) + "\n")  # the job, two rounds, the first's figures
    for content in (summary.read_text(), "{", None):
        if content is None:
            summary.unlink()
        else:
            summary.write_text(content)
        broken = blindsum.Run.open(run.folder)
        assert broken.status == "INTERRUPTED" and broken.rounds == 2 and broken.ended is None
        assert broken.epsilon["alder"] == run.history["epsilon_alder"].iloc[1]
    log.write_text(lines[0] + "\n")
    empty = blindsum.Run.open(run.folder)
    assert empty.history.empty and set(empty.epsilon.values()) == {0.0}
    assert "no round was evaluated" in empty._repr_html_()
    with pytest.raises(JobError, match="completed no round"):
        empty.plot()
    with pytest.raises(JobError, match="there is no run in"):
        blindsum.Run.open(tmp_path)
    (run.folder / "model.blindsum").unlink()
    with pytest.raises(JobError, match="released no model"):
        _ = empty.model


# Progress.


def test_lines_are_shown_only_if_they_are_asked_for(
    job: blindsum.Job, frames: Frames, capsys: pytest.CaptureFixture[str]
) -> None:
    blindsum.simulate(job, frames, progress="lines")
    said = capsys.readouterr()
    assert "round 3 of 3: accuracy" in said.err and said.out == ""
    with pytest.raises(blindsum.BlindsumError, match="progress 'line' is not known"):
        blindsum.simulate(job, frames, progress="line")  # type: ignore[arg-type]


def test_a_notebook_shows_progress_in_one_place(
    job: blindsum.Job, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    class Handle:
        update: Callable[[str], None] = staticmethod(shown.append)

    module: Any = ModuleType("IPython.display")
    module.HTML, module.display = str, lambda html, display_id: Handle()
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(progress, "_BETWEEN_S", 0.0)
    assert isinstance(progress.listener(True, "trial"), NotebookProgress)
    shown.clear()
    blindsum.simulate(job, frames)
    assert "silos read their data" in shown[0] and shown[-1] == ""
    bars = [html for html in shown if "<progress" in html]
    assert len(bars) == 3 and 'value="3" max="3"' in bars[-1] and "epsilon" in bars[-1]
