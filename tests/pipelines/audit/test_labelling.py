"""Jobs of tasks are attacked as jobs of classes are, and private tasks stay out."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from blindsum.pipelines.audit import command, outcome
from blindsum.pipelines.audit.attacks import membership
from blindsum.pipelines.audit.attacks.memorisation import Reading
from blindsum.pipelines.audit.attacks.shadow_training import Recipe
from blindsum.pipelines.audit.attacks.shadows import memberships
from blindsum.pipelines.audit.attacks.stacked import Stack
from blindsum.pipelines.audit.audited import load_audited
from blindsum.pipelines.audit.evidence import DEFENCES
from blindsum.pipelines.audit.labelling import WHOLE, Classes, OfTasks, log_odds
from blindsum.pipelines.audit.victim import Victim
from blindsum.platform.data.records import Fold
from blindsum.platform.data.table import SiloData
from blindsum.platform.errors import DataError, JobError
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.labels_section import Task
from blindsum.platform.job.paths import silo_places
from blindsum.platform.privacy.randomness import cryptographic_generator
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import build_model, get_parameters
from tests.conftest import MakeJob
from tests.plans import plan_by_hand

BINARY, NUMBER = Task(kind="binary"), Task(kind="regression", qualifier="side")
MANY = {"toxic": BINARY, "size": NUMBER.model_copy(update={"weight": 2.0})}
TINY = outcome.Depth(
    "tiny",
    1,
    0.05,
    20,
    (1, 2),
    (1,),
    (8,),
    18,
    200,
    federations=1,
    rounds=5,
    reading=Reading(2, 20),
    models=1,
    limit_s=5.0,
)


def labels_of(*values: tuple[float, ...], sides: float = 0.0) -> np.ndarray:
    rows = np.array(values, np.float32)
    return np.stack([rows, np.full_like(rows, sides)], axis=1)


def test_a_binary_task_is_two_classes() -> None:
    random = np.random.default_rng(0)
    logits, y = random.normal(0, 3, (2, 40, 1)), random.integers(0, 2, 40)
    of_task = OfTasks({"toxic": BINARY}).observe(logits, labels_of(*((v,) for v in y)), (WHOLE,))
    pair = np.concatenate([np.zeros_like(logits), logits], axis=2)
    of_classes = Classes(2).observe(pair, y, (WHOLE,))
    np.testing.assert_allclose(of_task.losses, of_classes.losses, rtol=1e-9)
    np.testing.assert_allclose(of_task.statistics, of_classes.statistics, rtol=1e-9)


def test_observed_losses_are_minus_the_log_of_the_probability() -> None:
    logits, labels = np.random.default_rng(3).normal(0, 4, (2, 5, 3)), np.array([0, 1, 2, 0, 1])
    found = Classes(3).observe(logits, labels, (WHOLE,))
    p = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    expected = p[:, np.arange(5), labels]
    np.testing.assert_allclose(found.losses[0], -np.log(expected), rtol=1e-9)
    np.testing.assert_allclose(found.statistics[0], np.log(expected / (1 - expected)), rtol=1e-6)
    np.testing.assert_allclose(log_odds(found.losses), found.statistics, rtol=1e-6)
    assert np.isfinite(log_odds(np.zeros(3))).all()


def test_many_tasks_are_seen_by_their_mean_loss_and_one_by_one() -> None:
    read = OfTasks(MANY)
    labels = labels_of((1.0, 0.5), (np.nan, 2.0), (0.0, np.nan))
    outputs = np.array([[[2.0, 1.5], [9.0, 1.0], [1.0, 9.0]]])
    views = read.views(labels)
    assert views == (WHOLE, "toxic", "size")
    found = read.observe(outputs, labels, views)
    crossed = [np.log1p(np.exp(-2.0)), np.log1p(np.exp(1.0))]
    np.testing.assert_allclose(found.losses[0][0], [(crossed[0] + 2 * 0.5) / 3, 0.5, crossed[1]])
    np.testing.assert_allclose(found.losses[1][0], [crossed[0], np.nan, crossed[1]])
    np.testing.assert_allclose(found.losses[2][0], [0.5, 0.5, np.nan])
    np.testing.assert_allclose(found.statistics[1][0], [2.0, np.nan, -1.0])
    np.testing.assert_allclose(found.statistics[2][0], [1.0, -1.0, np.nan])
    np.testing.assert_allclose(found.statistics[0], log_odds(found.losses[0]))
    beyond = read.observe(outputs, labels_of((1.0, 0.5), sides=1.0)[[0, 0, 0]], views)
    assert beyond.losses[2][0][0] == 0.0, "predicted above what the true value is known to exceed"


def test_labels_are_read_off_the_last_bias() -> None:
    read, made_up = OfTasks(MANY), torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    for label, residual in ((1.0, 0.3 - 1.0), (0.0, 0.3)):
        found = read.from_bias(made_up, torch.tensor([residual, 2 * (1.5 - 0.7)]), 1)
        assert found[0, 0].tolist() == pytest.approx([label, 0.7], abs=1e-6)
    nothing = read.from_bias(made_up, torch.tensor([0.0, 0.1]), 1)
    assert bool(nothing[0, 0].isnan()[0]) and not bool(nothing[0, 0].isnan()[1])
    three_of_four = read.from_bias(made_up, torch.tensor([4 * 0.5 - 3.0, 0.1]), 4)
    assert three_of_four[:, 0, 0].sum() == 3


def test_a_canary_s_labels_are_wrong_and_its_gaps_stay() -> None:
    labels = labels_of((1.0, 0.5), (np.nan, 2.0), (0.0, np.nan), sides=-1.0)
    wrong = OfTasks(MANY).spoilt(labels, np.random.default_rng(0))
    known = ~np.isnan(labels[:, 0])
    assert (np.isnan(wrong[:, 0]) == ~known).all() and not wrong[:, 1].any()
    assert (wrong[:, 0][known] != labels[:, 0][known]).all()
    assert set(wrong[:, 0, 0][known[:, 0]]) == {0.0, 1.0}


@pytest.mark.parametrize("clip", [None, 0.3])
def test_stacked_models_of_tasks_take_the_products_steps(
    make_job: MakeJob, clip: float | None
) -> None:
    job = make_job(
        "data.target=null",
        "data.tasks={toxic: {}, size: {kind: regression, weight: 2}}",
        "model={kind: mlp, hidden: [7]}",
        "training.sampling_rate=1",
        "training.local_steps=3",
    ).job
    random, loss = np.random.default_rng(0), OfTasks(MANY).loss
    features = random.normal(size=(30, 4)).astype(np.float32)
    labels = np.stack([random.integers(0, 2, (30, 2)), np.zeros((30, 2))], axis=1)
    labels = labels.astype(np.float32)
    labels[:9, 0, 0], labels[9:15, 0, 1], labels[20:, 1, 1] = np.nan, np.nan, 1.0
    members = random.random((3, 30)) < 0.5
    stack = Stack(job, 4, 3, loss)
    plan = plan_by_hand(noise_multiplier=0.0, clip_norm=clip, steps_per_round=3) if clip else None
    recipe = Recipe(job.training, job.server, 1, plan)
    stack.train(
        torch.from_numpy(features),
        torch.from_numpy(labels),
        torch.from_numpy(members),
        recipe,
        torch.Generator().manual_seed(0),
    )
    for k in range(3):
        net = build_model(job.model, 4, 2, seed=job.seed, private=True)
        fold = Fold(features[members[k]], labels[members[k]])
        trainer = LocalTrainer(net, fold, job.training, plan, cryptographic_generator(), loss)
        start = get_parameters(net)
        after = start + trainer.train(start).values
        flat = [t for w, b in zip(stack.weights, stack.biases, strict=True) for t in (w[k], b[k])]
        np.testing.assert_allclose(torch.cat([t.flatten() for t in flat]), after, atol=2e-5)


@pytest.mark.parametrize("task", [BINARY, NUMBER])
def test_who_was_trained_on_shows_in_a_task_s_loss(make_job: MakeJob, task: Task) -> None:
    """More inputs than records, and random labels: a model can know a record only from training."""
    read, random = OfTasks({"toxic": task}), np.random.default_rng(0)
    job = make_job(
        "data.target=null",
        "data.tasks={toxic: {}}",
        "training.rounds=100",
        "training.local_steps=1",
        "training.sampling_rate=1",
        "training.expected_batch_size=20",
        "training.learning_rate=0.1",
    ).job
    features = random.normal(size=(60, 80)).astype(np.float32)
    values = random.integers(0, 2, 60) if task is BINARY else random.normal(size=60)
    labels = labels_of(*((v,) for v in values))
    members = memberships(40, 32)
    stack = Stack(job, 80, 32, read.loss)
    stack.train(
        torch.from_numpy(features[:40]),
        torch.from_numpy(labels[:40]),
        torch.from_numpy(members),
        Recipe(job.training, job.server, 100),
        torch.Generator().manual_seed(0),
    )
    said = stack.logits(torch.from_numpy(features)).double().numpy()
    own = read.observe(said[:, :40], labels[:40], (WHOLE,))
    others = read.observe(said[:, 40:], labels[40:], (WHOLE,))
    seen = membership.Shadows(own.statistics[0], own.losses[0], members, others.losses[0])
    found = membership.scores(seen)
    for attack in ("lira", "rmia"):
        assert membership.rates(found[attack], members, 0.01).low > 0.2, attack  # type: ignore[operator]


@pytest.fixture
def labelled(tables: dict[str, Path], tmp_path: Path) -> None:
    """The silos' tables with tasks beside the diagnosis; birch has one of its own, on half of which
    nothing else is labelled."""
    random = np.random.default_rng(0)
    for path in tables.values():
        table = pq.read_table(path)
        malignant = pa.array((np.array(table["diagnosis"]) == "malignant").astype(np.int64))
        size = np.array(table["mean_radius"]) + random.normal(size=table.num_rows)
        gaps = np.arange(table.num_rows) % 30 == 0
        malignant = pa.array(malignant.to_pylist(), pa.int64(), mask=gaps | (np.arange(150) > 120))
        table = table.append_column("malignant", malignant)
        table = table.append_column("size", pa.array(size, mask=np.arange(150) > 120))
        table = table.append_column("secret_assay", pa.array(np.arange(150) % 2))
        pq.write_table(table, path)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"secret_assay": {"kind": "binary"}}))


def with_tasks(make_job: MakeJob, tasks: str, *more: str) -> JobFile:
    return make_job("data.target=null", f"data.tasks={tasks}", *more)


TWO = "{malignant: {kind: binary}, size: {kind: regression, center: 14, scale: 4}}"
HEADS = (
    "silos.alder.private_tasks=own.yaml",
    "silos.birch.private_tasks=own.yaml",
    "silos.cedar.private_tasks=own.yaml",
    "model={kind: mlp, hidden: [24], activation: relu}",
)


@pytest.mark.usefixtures("labelled")
def test_private_tasks_and_what_they_alone_label_stay_out(make_job: MakeJob) -> None:
    job_file = with_tasks(make_job, TWO, *HEADS)
    places = silo_places(job_file.silo("birch"), str(job_file.folder))
    found = load_audited(job_file.job, "birch", places)
    assert len(found.data.train) + len(found.data.test) == 121 and found.left_out
    assert found.data.train.labels.shape[1:] == (2, 2) and "private" in repr(found)
    alone = make_job("data.target=null", *HEADS)
    with pytest.raises(JobError, match="all tasks of this job are private"):
        load_audited(alone.job, "birch", places)
    table = pq.read_table(places.table)
    empty = pa.array([None] * 150, pa.float64())
    for name in ("malignant", "size"):
        table = table.set_column(table.column_names.index(name), name, empty)
    pq.write_table(table, places.table)
    with pytest.raises(
        DataError, match="no training record of this silo has a label of a shared task"
    ):
        load_audited(job_file.job, "birch", places)


@pytest.mark.usefixtures("labelled")
def test_a_private_job_that_measures_numbers_trains_clipped_without_noise(
    make_job: MakeJob,
) -> None:
    for tasks, privacy, clipped in (
        (TWO, (), True),
        ("{malignant: {kind: binary}}", (), False),
        (TWO, ("privacy={noise: none}",), False),
    ):
        job = with_tasks(make_job, tasks, *privacy).job
        fold = Fold(np.zeros((1, 4), np.float32), np.zeros((1, 2, job.data.outputs), np.float32))
        planned = plan_by_hand(epsilon=3, sampling_rate=0.1, clip_norm=0.7, steps_per_round=3)
        bare = Victim(job, "birch", SiloData(fold, fold, "", 0), planned).without_noise()
        assert (bare is not None) == clipped
        assert bare is None or (bare.clip_norm, bare.update_noise) == (0.7, 0.0)


CASES = {
    "two tasks and private ones": (TWO, HEADS),
    "one label": ("{malignant: {kind: binary}}", HEADS[-1:]),
    "a number": ("{size: {kind: regression, center: 14, scale: 4}}", HEADS[-1:]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("cluster", "labelled")
def test_a_job_of_tasks_is_audited(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(command, "QUICK", TINY)
    if case != "two tasks and private ones":  # every record needs a label of a shared task
        for path in tmp_path.glob("*.parquet"):
            table = pq.read_table(path)
            column = "malignant" if case == "one label" else "size"
            pq.write_table(table.filter(table[column].is_valid()), path)
    tasks, more = CASES[case]
    command.run_audit(with_tasks(make_job, tasks, *more), "birch", True, [], True)
    (report,) = (tmp_path / "runs").glob("*/report.html")
    figures = json.loads((report.parent / "audit.json").read_text())
    by = {(e["attack"], e["defence"], e["checkpoint"]): e["figures"] for e in figures["evidence"]}
    exact = {d: by["closed form", d, "fresh"]["exact records"]["value"] for d in DEFENCES}
    assert exact == {"none": 1.0, "dp": 0.0, "encrypted": 0.0, "both": 0.0}
    attacks, said = {attack for attack, _, _ in by}, " ".join(figures["not_tested"])
    assert {
        "sparse recovery",
        "matching",
        "imprint",
        "lira",
        "rmia",
        "confidence",
        "candidates",
    } <= attacks
    if case != "two tasks and private ones":  # which has too few records of a class
        assert ("generator" in attacks) == (case == "one label")
    assert ("only numeric tasks" in said) == (case == "a number")
    assert ("are unbounded" in figures["without_privacy"]) == (case != "one label")
    assert figures["score"] == ("mean R2" if case == "a number" else "mean AUROC")
    assert [p["epsilon"] for p in figures["score_by_epsilon"]] == [None, 1.0, 3.0, 8.0]
    several = case == "two tasks and private ones"
    assert ("lira by task" in attacks) == several == ("private tasks" in said)
    settings = {e["setting"] for e in figures["evidence"] if e["attack"] == "lira by task"}
    assert settings == ({"task malignant", "task size"} if several else set())
    assert ("outsider.lira_by_task.tpr_at_1pct_fpr" in figures["gate"]) == several
    for written in (report, report.parent / "audit.json"):
        assert "secret_assay" not in written.read_text()
