"""What MLflow shows of a run beside its figures: settings, tags, texts, and its dataset.

Everything here follows from the job file, the version and the machine of the driver. Nothing comes
from a silo's table: a table's fingerprint in MLflow would let anyone who reads it confirm a guess
about the records.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindsum.platform.job.features_section import FeatureColumn
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.paths import SUBMITTED_VARIABLE
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import describe
from blindsum.platform.privacy.releases import metrics_guarantee
from blindsum.platform.state.approval import job_digest

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

NOTE = "mlflow.note.content"
"""The tag that MLflow shows as the description of a run or an experiment."""

_PARAM_LIMIT = 6000
_OF_KIND = {"number": "double", "integer": "long", "text": "string", "bytes": "binary"}
"""MLflow's types for the columns of a job's own dataset. It has none for lists."""

_MOST_COLUMNS = 1000
"""The most columns of a dataset's schema. MLflow's page lists them one below the other."""


def settings_of(job: Job) -> dict[str, str]:
    """Return the settings that the job has, by their dotted names.

    Tasks become one text, and so do columns: they may be thousands, with names that MLflow refuses.
    """
    content = job.model_dump()
    if job.data.tasks:
        content["data"]["tasks"] = json.dumps(list(job.data.tasks))
    if columns := content["data"]["features"].get("columns"):
        content["data"]["features"]["columns"] = json.dumps(columns)
    return {name: _short(text) for name, text in flatten(content).items()}


def _short(text: str) -> str:
    """Cut a text to MLflow's limit; the digest at its end still tells texts apart."""
    if len(text) <= _PARAM_LIMIT:
        return text
    digest = f"... (SHA-256 {hashlib.sha256(text.encode()).hexdigest()})"
    return text[: _PARAM_LIMIT - len(digest)] + digest


def flatten(content: Any, prefix: str = "") -> dict[str, str]:
    """Return nested settings as dotted keys, without those that are None; lists of plain values
    become JSON."""
    if isinstance(content, dict) and content:
        parts = [(str(key), value) for key, value in content.items() if value is not None]
    elif isinstance(content, list) and any(isinstance(item, dict) for item in content):
        parts = [(str(item.get("name", i)), item) for i, item in enumerate(content)]
    else:
        return {prefix: content if isinstance(content, str) else json.dumps(content)}
    return {
        key: text
        for name, value in parts
        for key, text in flatten(value, f"{prefix}.{name}" if prefix else name).items()
        if key.rpartition(".")[2] != "name" or not prefix
    }


def run_tags(job: Job) -> dict[str, str]:
    """Return the tags that state what a run of the job promises, and the code that ran it."""
    private = job.private
    tags = {
        "blindsum.version": version("blindsum"),
        "blindsum.job_digest": job_digest(job),
        "blindsum.roster": ", ".join(job.roster),
        "blindsum.differential_privacy": (
            f"record-level, {job.privacy.noise} noise"
            if private
            else "NONE"
            if job.privacy.noise == "none"
            else "NONE: privacy.test_seed is set"
        ),
        "blindsum.encryption": job.encryption.scheme.replace("none", "NONE"),
        "blindsum.metrics_guarantee": metrics_guarantee(job),
        "epsilon": f"{job.privacy.epsilon:g}"
        if job.privacy.noise != "none" and private
        else "unbounded",
    }
    if job.privacy.noise != "none" and private:
        tags |= {
            f"privacy.{key}": value for key, value in describe(job.privacy, job.model.kind).items()
        }
    commit = code_commit()
    return tags | ({"mlflow.source.git.commit": commit} if commit else {})


def origin_tags(job_file: JobFile, command: str) -> dict[str, str]:
    """Return the tags that MLflow shows as the source and the user of a run.

    Args:
        command: the command that started it, such as "run".
    """
    kind = "JOB" if SUBMITTED_VARIABLE in os.environ else "LOCAL"
    tags = {
        "mlflow.source.name": f"blindsum {command} {job_file.path.name}",
        "mlflow.source.type": kind,
    }
    try:  # as MLflow itself does; LOGNAME overrides it
        return tags | {"mlflow.user": getpass.getuser()}
    except (OSError, KeyError):  # a container's user without a name
        return tags


def run_note(job: Job) -> str:
    """Return the description of a run that has no result yet."""
    text = f"{_model(job)} on {_features(job)}, labels from {_labels(job)}."
    return text[0].upper() + text[1:]


def experiment_note(job: Job) -> str:
    """Return the description of a new experiment, in Markdown."""
    return (
        f"Federated training by {', '.join(job.roster)}: {run_note(job)}\n\n"
        "- `held_out/...`: figures of the whole consortium on its held-out records\n"
        "- `privacy/...`: epsilon, the largest spend and that of each silo\n"
        "- `training/...`: range and clipping of the updates\n"
        "- `system/...`: seconds and bytes of a round\n\n"
        "Each run's tags state what it protects; `privacy-statement.html` among its artifacts says "
        "it in full. `blindsum compare` shows runs side by side."
    )


def dataset_of(job: Job) -> DatasetInput:
    """Return what a run was trained on, as an MLflow dataset: the contract that every silo's table
    meets. Runs with the same contract have the same digest, whatever the tables hold."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    contract = job.data.model_dump_json()
    source = {
        "silos": list(job.roster),
        "features": _features(job),
        "labels": _labels(job),
        "folds": job.data.folds.model_dump(mode="json"),
    }
    return DatasetInput(
        Dataset(
            name=job.name,
            digest=hashlib.sha256(contract.encode()).hexdigest()[:16],
            source_type="contract of the job",
            source=json.dumps(source),
            schema=_schema(job),
        ),
        [InputTag("mlflow.data.context", "training and evaluation")],
    )


def _schema(job: Job) -> str | None:
    features, columns = job.data.features, sorted(job.data.inputs)
    lists = features.kind == "factory" and "numbers" in features.columns.values()
    if features.kind == "fingerprint" or lists or len(columns) > _MOST_COLUMNS:
        return None
    types = dict.fromkeys(columns, "string")
    if features.kind == "columns":
        types = {name: _type(one) for name, one in features.columns.items()}
    if features.kind == "factory":
        types = {name: _OF_KIND[kind] for name, kind in features.columns.items()}
    return json.dumps(
        {"mlflow_colspec": [{"name": n, "type": types[n], "required": True} for n in columns]}
    )


def _type(column: FeatureColumn) -> str:
    if column.date:
        return "datetime"
    if not column.categories:
        return "double"
    return {str: "string", bool: "boolean", int: "long"}[type(column.categories[0])]


def _features(job: Job) -> str:
    features = job.data.features
    if features.kind == "columns":
        from blindsum.platform.data.features import features_of  # imports torch

        count, width = len(features.columns), features_of(features).width
        return f"{count} columns" + (f", {width} features" if width != count else "")
    if features.kind == "factory":
        return f"the dataset {features.function}"
    return f"features of kind {features.kind}"


def _labels(job: Job) -> str:
    if job.data.target:
        return f"column {job.data.target.column}"
    tasks = list(job.data.tasks or {})
    count = "1 task" if len(tasks) == 1 else f"{len(tasks)} tasks"
    more = f" and {len(tasks) - 20} more" if len(tasks) > 20 else ""
    return f"{count}: {', '.join(tasks[:20])}{more}" if tasks else "each silo's own tasks"


def _model(job: Job) -> str:
    if job.model.kind == "factory":
        return f"the model {job.model.factory}"
    names = {
        "linear": "a linear model",
        "cnn": "a convolutional network",
        "transformer": "a transformer",
        "trees": "boosted trees",
        "regression": "a regression",
        "statistics": "statistics",
        "dmpnn": "a network of messages along bonds",
    }
    return names.get(job.model.kind, "a multilayer perceptron")


def code_commit() -> str | None:
    """Return the git commit of this code, with "-changed" if the tree differs; None outside a
    repository."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=10,
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD") if git("ls-files", __file__) else ""
        return f"{commit}{'-changed' if git('status', '--porcelain') else ''}" if commit else None
    except (OSError, subprocess.TimeoutExpired):
        return None
