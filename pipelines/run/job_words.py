"""What a job is, in a few words for each part: for someone who has never seen its file.

Everything follows from the job alone. No text tells whether a silo has private tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import yaml
from rich.cells import cell_len, set_cell_size

from blindsum.pipelines.show.console import plain
from blindsum.platform.data.features import features_of
from blindsum.platform.job.average_section import described
from blindsum.platform.job.data_section import DataSection
from blindsum.platform.job.features_section import Columns
from blindsum.platform.job.labels_section import Task, as_written
from blindsum.platform.job.name_patterns import expanded
from blindsum.platform.job.regression_section import family_of
from blindsum.platform.job.schema import Job
from blindsum.platform.job.yaml_reader import Loader
from blindsum.platform.privacy.releases import EXACT_METRICS, metrics_guarantee

MOST_NAMED = 8
_LONGEST = 40


def shown(name: str) -> str:
    """Return a name with its control characters visible, cut if it is long."""
    text = plain(name)
    return text if cell_len(text) <= _LONGEST else set_cell_size(text, _LONGEST - 3) + "..."


def listed(names: Sequence[str], most: int = MOST_NAMED) -> str:
    """Return the first of these names, each as `shown` returns it, and how many more there are."""
    most = most if len(names) > most + 1 else len(names)  # "and 1 more" is no shorter
    left = len(names) - most
    return ", ".join(names[:most]) + (f" and {left:,} more" if left else "")


def inputs(job: Job, text: str) -> str:
    """Return what the model's inputs are.

    Args:
        text: the job file, which tells the patterns of column names; "" if it is not at hand.
    """
    features = job.data.features
    if isinstance(features, Columns):
        count, width = len(features.columns), features_of(features).width
        unit = "column" if count == 1 else "columns"
        become = "" if width == count else f" that become {width:,} inputs"
        return f"{count:,} {unit}{become}: {listed(_as_written(features, text))}"
    if features.kind == "descriptors":
        names = listed(list(map(shown, features.descriptors)))
        return (
            f"{len(features.descriptors)} descriptors of the molecule in column "
            f"{shown(features.smiles)}: {names}"
        )
    if features.kind == "ecfp":
        return (
            f"a fingerprint (ECFP, {features.bits:,} bits, radius {features.radius}) of the "
            f"molecule in column {shown(features.smiles)}"
        )
    if features.kind == "maccs":
        return f"the {features.bits} MACCS keys of the molecule in column {shown(features.smiles)}"
    if features.kind == "kernel":
        return (
            f"{features.dimensions} numbers that say which public molecules (basis "
            f"{features.basis}) the molecule in column {shown(features.smiles)} is like"
        )
    if features.kind == "projection":
        return (
            f"counts of substructures (radius {features.radius}), projected to "
            f"{features.dimensions} dimensions, of the molecule in column {shown(features.smiles)}"
        )
    if features.kind == "graphs":
        return (
            f"the graph ({features.featurisation}, at most {features.max_atoms} atoms) of the "
            f"molecule in column {shown(features.smiles)}"
        )
    if features.kind == "images":
        colours = "in shades of grey" if features.channels == 1 else "in colour"
        return (
            f"pictures of {features.width} by {features.height} points, {colours}, from column "
            f"{shown(features.column)}"
        )
    if features.kind == "factory":
        columns = listed(list(map(shown, features.columns)))
        return f"{features.width:,} values that {shown(features.function)} makes of {columns}"
    if features.kind == "text":
        named = features.tokenizer
        units = f"tokens ({shown(named.file)})" if named else "bytes"
        text = f"the text in column {shown(features.column)}"
        return f"the first {features.length:,} {units} of {text}"
    return f"a fingerprint of {features.bits:,} bits, read from column {shown(features.column)}"


def _as_written(features: Columns, text: str) -> list[str]:
    """Return the columns with the job file's patterns in place of the names that match them."""
    if "*" not in text:
        return list(map(shown, features.columns))
    section = yaml.load(text, Loader=Loader)["data"]["features"]
    matches = {
        key: len(expanded({key: None}, section["names"]))
        for key in section["columns"]
        if "*" in key
    }
    return [
        shown(key) + (f" ({matches[key]:,})" if key in matches else "")
        for key in section["columns"]
    ]


def predicted(data: DataSection) -> str:
    """Return what the model predicts."""
    if data.target:
        pairs = zip(data.target.classes, data.target.weights, strict=True)
        classes = [
            shown(as_written(one)) + _weight(" (weight {:g})", weight) for one, weight in pairs
        ]
        return f"{shown(data.target.column)}, one of: {listed(classes)}"
    if not data.tasks:
        return "no label that all silos know; they train the model's hidden layers together"
    tasks = [f"{shown(name)} ({_task(task)})" for name, task in data.tasks.items()]
    return f"{len(tasks):,} tasks: {listed(tasks)}" if len(tasks) > 1 else tasks[0]


def _task(task: Task) -> str:
    kind = "a number" if task.kind == "regression" else "yes or no"
    positives = _weight(", positives' weight {:g}", task.positive_weight)
    return kind + _weight(", weight {:g}", task.weight) + positives


def _weight(text: str, weight: float) -> str:
    """Return what is said of a weight in the loss, unless it is 1."""
    return "" if weight == 1 else text.format(weight)


def held_out(data: DataSection) -> str:
    """Return which records are held out."""
    folds = data.folds
    if folds.kind == "column":
        mark = "test" if folds.held_out is None else f"{folds.held_out}"
        return f"the records with {mark} in column {shown(folds.column)}"
    if folds.kind == "time":
        return f"the records from {folds.held_out_from} on, by column {shown(folds.column)}"
    share = f"about {100 * folds.test_fraction:.3g} %"
    if folds.kind == "hash":
        return f"{share} of the values in column {shown(folds.column)}, with all their records"
    if folds.kind == "scaffold":
        return f"{share} of the chemical series (scaffolds), the same series at every silo"
    if folds.kind == "cluster":
        return f"{share} of the clusters of similar molecules, the same clusters at every silo"
    return f"{share} of the records, chosen by a hash of their features"


def trains(job: Job, rounds: int) -> str:
    """Return how a silo trains."""
    asked, steps = job.training.rounds, job.training.local_steps
    covered = f"{rounds:,} rounds"
    if not job.model.is_scored:
        return f"{covered} of sums over all records, those of the held-out fold too"
    if rounds < asked:
        covered = f"{rounds:,} of {asked:,} rounds, which is as far as the budget goes"
    early = "; it ends early if the held-out figures stop improving" if job.training.stop else ""
    return (
        f"{covered}, each of {steps:,} {'step' if steps == 1 else 'steps'} on a random "
        f"{100 * job.training.sampling_rate:.3g} % of the other records{early}"
    )


def model_line(job: Job, parameters: int | None, frozen: int = 0) -> str:
    """Return the model in words.

    Args:
        parameters: those that are trained; None if only its code knows their number.
        frozen: the number of those that stay as they begin.
    """
    model = job.model
    count = "as many parameters as its code makes" if parameters is None else f"{parameters:,}"
    unit = "" if parameters is None else " parameters"
    if frozen and parameters is not None:
        unit = f" of {parameters + frozen:,} parameters are trained"
    if model.lora:
        unit += f", by adapters of rank {model.lora.rank}"
    if model.kind == "factory":
        return f"{model.factory}, {count}{unit}"
    if model.kind == "statistics":
        more = "; among them a noised sketch of what records are known by" if model.overlap else ""
        return f"statistics: {count} numbers that follow from sums over all records{more}"
    if model.kind == "trees":
        return (
            f"{model.trees} boosted trees of depth {model.max_depth} for each output, "
            f"{model.split} splits"
        )
    if model.kind == "regression":
        name = "logistic" if family_of(job) == "binomial" else "linear"
        return f"{name} regression with standard errors"
    if model.kind == "huggingface":
        named = f"folder {model.folder}" if model.folder else "a configuration"
        return f"huggingface model of {named}, {count}{unit}"
    if model.kind == "mlp":
        hidden = " x ".join(map(str, model.hidden))
        return f"mlp with hidden layers of {hidden} ({model.activation}), {count}{unit}"
    if model.kind == "dmpnn":
        layers = " x ".join(map(str, model.ffn)) or "none"
        return (
            f"dmpnn of depth {model.depth} with messages of {model.hidden}, then hidden layers of "
            f"{layers} ({model.activation}), {count}{unit}"
        )
    if model.kind == "cnn":
        channels = ", ".join(map(str, model.channels))
        return f"cnn with layers of {channels} channels ({model.activation}), {count}{unit}"
    return f"{model.kind}, {count}{unit}"


def leaves(job: Job) -> str:
    """Return what leaves a silo in a round, and how it is protected."""
    if job.privacy.noise == "none":
        noise = "neither clipped nor noised"
    elif not job.private:
        noise = "with noise from a known seed, which anyone can remove"
    else:
        own = "its share of the noise" if job.privacy.noise == "shared" else "its own noise"
        noise = f"clipped for each record, with {own}"
    sealed = "masked and encrypted (CKKS)"
    if job.encryption.scheme == "none":
        sealed = "NOT encrypted: the aggregator sees each silo's update"
    counts = "counts of held-out records and of cut values"
    update = "its update of the model"
    if not job.model.is_scored:
        update, counts = "its sums", "counts of cut values"
    return f"{update}, {noise}, and {counts}; all as integers, {sealed}"


def comes_back(job: Job) -> str:
    """Return what comes back to a silo in a round."""
    opened = "" if job.encryption.scheme == "none" else " decrypts it,"
    return f"the sum over all silos: each silo checks it,{opened} and makes the next model of it"


def adds(job: Job) -> str:
    """Return what the aggregator does."""
    if job.encryption.scheme == "none":
        return "adds the silos' updates, which it can read"
    return "adds ciphertext that it cannot read; it has no key"


def releases(job: Job, parameters: int | None, frozen: int, hub: str) -> Iterator[tuple[str, str]]:
    """Yield what others than its silo learn, and when.

    Args:
        parameters, frozen: as of `model_line`.
        hub: who besides the silos sees what is released, in a word.
    """
    yield "model", model_line(job, parameters, frozen)
    if not job.model.is_scored:
        yield (
            "all get",
            f"the sums after every round, and the figures that follow; {hub} saves them",
        )
        return
    yield "silos get", "the model after every round"
    average = described(job.training.average)
    yield f"{hub} gets", f"after every round, and saves at the end: {average}"
    of_updates = "the share of update values that were cut"
    if not job.data.outputs:
        yield "both get", of_updates
        return
    every = job.privacy.metrics_every
    when = "after every round" if every == 1 else f"after every {every} rounds"
    found = metrics_guarantee(job)
    sums = "exact sums over all silos, without noise" if found == EXACT_METRICS else found
    yield "both get", f"figures of held-out records, {when}: {sums}; and {of_updates}"
