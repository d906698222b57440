"""The model in MLflow predicts, and is served, on a machine that has neither Blindsum nor Ray."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from blindsum.platform.job.schema import Job
from blindsum.platform.prediction.predictor import Predictor
from blindsum.platform.prediction.released import read_released
from blindsum.platform.tracking.model_logging import NEEDED, log_released
from tests.conftest import COLUMNS, job_content
from tests.platform.test_prediction import molecules, written

# MLflow talks to its users in warnings; in these tests they are not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

ELSEWHERE = """
import asyncio, json, sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

model, absent, records, before = sys.argv[1], set(sys.argv[2].split()), sys.argv[3], list(sys.path)


class Absent(MetaPathFinder):
    # Finds no package of this environment that the other machine does not have.
    def find_spec(self, name, path=None, target=None):
        if name == "blindsum":
            found = PathFinder.find_spec(name, [one for one in sys.path if one not in before])
            if found:
                return found
        elif name.partition(".")[0] not in absent:
            return None
        raise ModuleNotFoundError(f"this machine has no {name}")


sys.meta_path.insert(0, Absent())
for name in ("blindsum", *absent):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} was there from the beginning")

import pandas as pd
from mlflow.pyfunc import load_model, scoring_server

loaded = load_model(model)
found = loaded.predict(pd.DataFrame(json.loads(records)))
import blindsum

assert blindsum.__file__.startswith(model.removeprefix("file://")), blindsum.__file__


async def asked(app, body):
    # What `mlflow models serve` answers over HTTP.
    sent, messages = [], [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        return messages.pop(0) if messages else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
             "scheme": "http", "path": "/invocations", "raw_path": b"/invocations",
             "query_string": b"", "root_path": "", "headers": headers,
             "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(one.get("body", b"") for one in sent)


body = json.dumps({"dataframe_records": json.loads(records)}).encode()
status, answer = asyncio.run(asked(scoring_server.init(loaded), body))
print(json.dumps({"found": json.loads(found.to_json(orient="records")), "status": status,
                  "served": answer.decode()}))
"""


def required(names: set[str]) -> set[str]:
    """Those distributions and all that they require."""
    found, left = set[str](), set(names)
    while left:
        name = left.pop()
        found.add(name)
        try:
            needs = distribution(name).requires or []
        except ModuleNotFoundError:
            continue
        here = {re.split(r"[ \[<>=!~;(]", one)[0] for one in needs if "extra ==" not in one}
        left |= {re.sub(r"[-_.]+", "-", one).lower() for one in here} - found
    return found


def absent(needed: set[str]) -> set[str]:
    """The modules here that a machine with `needed` alone does not have."""
    there = required(needed)
    return {
        module
        for module, owners in packages_distributions().items()
        if module.isidentifier()
        and module not in sys.stdlib_module_names
        and not {re.sub(r"[-_.]+", "-", one).lower() for one in owners} & there
    } - {"blindsum"}


def elsewhere(path: Path, folder: Path, records: list[dict[str, Any]]) -> dict[str, Any]:
    """What the model in MLflow answers on another machine."""
    uri = f"sqlite:///{folder}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("trial", (folder / "mlartifacts").as_uri())
    run = client.create_run(experiment)
    log_released(path.read_bytes(), uri, run.info.run_id, 3)
    (model,) = client.search_logged_models([experiment])
    listed = (
        Path(model.artifact_location.removeprefix("file://")) / "requirements.txt"
    ).read_text()
    needed = {line.partition("==")[0] for line in listed.split()}
    assert needed >= {*NEEDED, "mlflow"}
    missing = absent(needed)
    assert {"ray", "tenseal", "opacus"} <= missing
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE, model.artifact_location]
        + [" ".join(sorted(missing)), json.dumps(records)],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_columns_are_predicted_elsewhere(tmp_path: Path) -> None:
    path = written(Job.model_validate(job_content(tmp_path)), tmp_path)
    records: list[dict[str, Any]] = [dict.fromkeys(COLUMNS, 14.0), dict.fromkeys(COLUMNS, 15.0)]
    records[1]["mean_radius"] = None
    _require_same(path, tmp_path, records)


def test_molecules_are_predicted_elsewhere(tmp_path: Path) -> None:
    features = {"kind": "descriptors", "smiles": "structure", "descriptors": ["MolWt", "TPSA"]}
    tasks = {"toxic": {}, "logd": {"kind": "regression", "center": 2.0}}
    path = written(molecules(features, tasks, tmp_path), tmp_path)
    _require_same(path, tmp_path, [{"structure": "CCO"}, {"structure": "nonsense"}])


def test_the_tensors_of_a_job_s_own_dataset_are_made_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (Path(__file__).parent / "own_dataset.py").read_text()
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "dataset_of_ours.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    content = job_content(tmp_path)
    content["data"]["features"] = {
        "kind": "factory",
        "function": "dataset_of_ours:lengths",
        "columns": {"structure": "text", "dose": "number"},
        "shape": [2],
    }
    path = written(Job.model_validate(content), tmp_path)
    records = [{"structure": "CCO", "dose": 0.5}, {"structure": "CC", "dose": None}]
    _require_same(path, tmp_path, records)


def _require_same(path: Path, folder: Path, records: list[dict[str, Any]]) -> None:
    from blindsum.platform.prediction.frames import predict_frame

    here = predict_frame(Predictor(read_released(path)), pd.DataFrame(records))
    expected = json.loads(here.to_json(orient="records"))
    answer = elsewhere(path, folder, records)
    assert [one["reason"] is None for one in expected] == [True, False]
    assert answer["status"] == 200

    def refused(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    served = json.loads(answer["served"], parse_constant=refused)["predictions"]
    for found in (answer["found"], served):
        assert [one.keys() for one in found] == [one.keys() for one in expected]
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other, rel=1e-5, abs=1e-9)  # JSON has ten digits
