"""Many tasks with gaps: labels, loss and held-out figures."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from sklearn.metrics import precision_recall_curve
from torch import nn
from torch.nn import functional

from blindsum.platform.data.records import Fold
from blindsum.platform.data.rejected_rows import refuse
from blindsum.platform.data.table import SiloData, load_data
from blindsum.platform.data.task_labels import task_labels
from blindsum.platform.errors import DataError, JobError
from blindsum.platform.evaluation.figures import CLASSIFIED, MEASURED, TASK_COUNTS
from blindsum.platform.evaluation.pair_figures import GROUP_COUNTS
from blindsum.platform.evaluation.scores import by_task, calibration_error, precision_at_rate
from blindsum.platform.evaluation.tasks import TaskCounting
from blindsum.platform.job.labels_section import Task, Tasks
from blindsum.platform.job.private_tasks import read_private_tasks
from blindsum.platform.privacy.plan import plan
from blindsum.platform.training.clipping.choice import clipped_sum
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.losses import MultiTask
from blindsum.platform.training.models import WithHeads, build_model, get_parameters, initial_digest
from tests.conftest import MakeJob

TASKS: Tasks = {
    "hit": Task(weight=2.0),
    "potency": Task(kind="regression", center=6.0, scale=2.0, qualifier="side"),
}
WHERE = Path("assays.parquet")


def table() -> pa.Table:
    return pa.table(
        {
            "hit": pa.array([1, None, 0, None], pa.int64()),
            "potency": pa.array([8.0, 5.0, None, 7.0]),
            "side": pa.array(["=", "<", None, ">"]),
        }
    )


def test_labels_are_scaled_and_keep_gaps_and_sides() -> None:
    labels = task_labels(table(), TASKS, WHERE).labels
    np.testing.assert_array_equal(labels[:, 0, 0], np.array([1, np.nan, 0, np.nan], np.float32))
    np.testing.assert_array_equal(labels[:, 0, 1], np.array([1, -0.5, np.nan, 0.5], np.float32))
    np.testing.assert_array_equal(labels[:, 1], [[0, 0], [0, -1], [0, 0], [0, 1]])


def test_a_records_loss_follows_from_its_labels_and_ignores_gaps() -> None:
    outputs = torch.tensor([[0.3, 0.0], [9.0, 0.5], [-1.0, 3.0], [5.0, 0.9]], requires_grad=True)
    losses = MultiTask(TASKS)(outputs, torch.from_numpy(task_labels(table(), TASKS, WHERE).labels))
    crossed = functional.binary_cross_entropy_with_logits
    expected = [
        2 * crossed(torch.tensor(0.3), torch.tensor(1.0)) + 0.5,  # and (0 - 1)^2 / 2
        torch.tensor(0.5),  # the true value is below -0.5, predicted is 0.5: (0.5 + 0.5)^2 / 2
        2 * crossed(torch.tensor(-1.0), torch.tensor(0.0)),
        torch.tensor(0.0),  # the true value is above 0.5, and 0.9 is
    ]
    assert losses.tolist() == pytest.approx([float(e) for e in expected])
    (gradient,) = torch.autograd.grad(losses.sum(), outputs)
    assert torch.isfinite(gradient).all()
    zero = [(1, 0), (2, 1), (3, 0), (3, 1)]
    assert all(gradient[i, j] == 0 for i, j in zero) and (gradient != 0).sum() == 8 - len(zero)


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        (
            "hit",
            [1, 2, 0, None],
            "column 'hit' has values other than 0 and 1, though its kind is binary",
        ),
        ("potency", [8.0, 5000.0, None, 7.0], "more than 100 times the task"),
        ("potency", [8.0, float("inf"), None, 7.0], "more than 100 times the task"),
        ("side", ["=", "~", None, ">"], "qualifiers other than"),
    ],
)
def test_wrong_labels_are_refused(column: str, values: list[object], said: str) -> None:
    wrong = table().set_column(table().schema.get_field_index(column), column, pa.array(values))
    with pytest.raises(DataError, match=said):
        refuse(task_labels(wrong, TASKS, WHERE).rejected, WHERE.name, WHERE)


def test_clipping_covers_the_whole_record_however_many_labels_it_has() -> None:
    """Compared with automatic differentiation; a record moves the sum by at most the clip norm."""
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 1))
    model, loss = WithHeads(whole, 1, 1), MultiTask(TASKS)
    nn.init.normal_(model.private.weight)  # type: ignore[union-attr]
    labels = torch.from_numpy(task_labels(table(), TASKS, WHERE).labels)
    way = clipped_sum(model, 5, loss, labels)
    x = torch.randn(4, 5)
    sums = way(x, labels, 0.1).sums
    expected = [torch.zeros_like(p) for p in model.parameters()]
    for i in range(4):
        one = torch.autograd.grad(
            loss(model(x[i : i + 1]), labels[i : i + 1]).sum(),
            list(model.parameters()),
            materialize_grads=True,
        )
        norm = torch.cat([g.flatten() for g in one]).norm()
        for total, g in zip(expected, one, strict=True):
            total += g * min(1.0, 0.1 / (float(norm) + 1e-6))
    for found, total in zip(sums, expected, strict=True):
        torch.testing.assert_close(found, total, rtol=1e-4, atol=1e-7)
    apart = way(x[:3], labels[:3], 0.1).sums
    moved = torch.cat([(a - b).flatten() for a, b in zip(sums, apart, strict=True)]).norm()
    assert moved <= 0.1 * (1 + 1e-5)


def test_private_heads_stay_out_of_vectors_and_digests(make_job: MakeJob) -> None:
    section = make_job("model={kind: mlp, hidden: [6]}").job.model
    one, other, none = (
        build_model(section, 4, 2, seed=1, private=True, own=own) for own in (3, 50, 0)
    )
    assert len({initial_digest(model) for model in (one, other, none)}) == 1
    assert get_parameters(one).size == 4 * 6 + 6 + 6 * 2 + 2 == get_parameters(none).size
    assert one(torch.zeros(5, 4)).shape == (5, 5) and none(torch.zeros(5, 4)).shape == (5, 2)
    # A factory may give a layer any name.
    named = nn.ModuleDict({"private": nn.Linear(4, 2), "rest": nn.Linear(2, 2)})
    assert get_parameters(named).size == 4 * 2 + 2 + 2 * 2 + 2
    alone = build_model(section, 4, 0, seed=1, private=True, own=2)
    assert alone(torch.zeros(5, 4)).shape == (5, 2) and get_parameters(alone).size == 30


@pytest.mark.parametrize("noise", ["local", "shared"])
def test_a_private_head_gets_the_whole_noise(make_job: MakeJob, noise: str) -> None:
    """Later updates depend on the head. This fails without the noise, or with a share of it."""
    job = make_job(
        f"privacy={{noise: {noise}, epsilon: 3, delta: 1e-4}}",
        "training.local_steps=1",
        "model={kind: mlp, hidden: [6]}",
    ).job
    own = plan(job, "birch")
    assert own
    model = build_model(job.model, 4, 1, seed=1, private=True, own=400)
    tasks = {str(i): Task() for i in range(401)}
    labels = np.full((3, 2, 401), np.nan, np.float32)
    fold = Fold(np.zeros((3, 4), np.float32), labels)  # without labels, only the noise moves it
    trainer = LocalTrainer(
        model, fold, job.training, own, np.random.default_rng(0), MultiTask(tasks)
    )
    update = trainer.train(get_parameters(model)).values
    rate = job.training.learning_rate / job.training.expected_batch_size
    expected = rate * own.update_noise * own.clip_norm
    head = torch.cat([p.flatten() for p in model.private.parameters()]).detach()  # type: ignore[union-attr]
    assert float(head.std()) == pytest.approx(expected, rel=0.1)
    # The shared part is noised later by all silos together, or its noise is already in the update.
    assert (update.std() > 0) == (noise == "local")


def test_figures_are_scikit_learns_and_means_over_all_silos_tasks() -> None:
    random = np.random.default_rng(0)
    true = (random.random(400) < 0.1).astype(np.float32)
    said = (true + random.normal(0, 1.0, 400)).astype(np.float32)
    number = random.normal(0, 1.0, 400).astype(np.float32)
    labels = np.zeros((400, 2, 2), np.float32)
    labels[:, 0, 0], labels[:, 0, 1] = true, number
    labels[200:, 0, 0], labels[300:, 1, 1] = np.nan, 1.0
    outputs = np.stack([said, number * 0.5], axis=1)
    found = by_task(outputs, labels, TASKS)
    order = np.argsort(-said[:200])
    pairs = [(p, n) for p in said[:200][true[:200] == 1] for n in said[:200][true[:200] == 0]]
    assert found["hit"]["auroc"] == pytest.approx(np.mean([p > n for p, n in pairs]), abs=1e-6)
    hits = true[:200][order].cumsum()
    precise = (hits / np.arange(1, 201))[true[:200][order] == 1].mean()
    assert found["hit"]["auprc"] == pytest.approx(precise, abs=1e-6)
    assert found["potency"]["rmse"] == pytest.approx(
        0.5 * np.sqrt((number[:300] ** 2).mean()), rel=1e-4
    )
    assert found["potency"]["r2"] == pytest.approx(0.75, abs=0.02)
    few = labels.copy()
    few[20:, 0, 0] = np.nan
    assert "hit" not in by_task(outputs, few, TASKS), "too few positives to be scored"


def test_precision_at_a_fixed_rate_is_the_precision_at_that_rate() -> None:
    """With negatives repeated until positives are a tenth, it is the plain average precision."""
    random = np.random.default_rng(1)
    true = np.repeat([1.0, 0.0], [40, 40])
    said = random.normal(true, 1.0)
    copies = np.concatenate([said[:40], np.tile(said[40:], 9)])
    precise, right, _ = precision_recall_curve(np.repeat([1, 0], [40, 360]), copies)
    plain = -(np.diff(right) * precise[:-1]).sum()
    assert precision_at_rate(true, said) == pytest.approx(plain, rel=1e-6)
    certain = np.array([0.05] * 100)
    assert calibration_error((np.arange(100) < 5).astype(float), certain) == pytest.approx(0.0)
    assert calibration_error((np.arange(100) < 55).astype(float), certain) == pytest.approx(0.5)


def test_sums_over_silos_give_the_mean_figures(make_job: MakeJob) -> None:
    """The sum of two silos' counts gives the mean over both silos' tasks."""
    random = np.random.default_rng(2)
    model = nn.Linear(3, 2)
    means, total = [], np.zeros(1, np.int64)
    for silo in range(2):
        x = random.normal(size=(120, 3)).astype(np.float32)
        labels = np.zeros((120, 2, 2), np.float32)
        labels[:, 0, 0], labels[:, 0, 1] = random.random(120) < 0.4, x[:, 0] + silo
        data = SiloData(Fold(x, labels), Fold(x, labels), "", silo)
        counting = TaskCounting(TASKS, data)
        total = total + counting.counts(model)
        means.append(counting.latest)
    found = counting.figures(total, 3)
    assert found.records == 240 and found.dropped == 1
    assert (found.binary_tasks, found.regression_tasks) == (2, 2)
    for ours, name, task in ((found.auroc, "auroc", "hit"), (found.rmse, "rmse", "potency")):
        assert ours == pytest.approx(np.mean([m[task][name] for m in means]), abs=1e-4)
    assert "mean AUROC" in found.line() and found.score.guess == 0.5
    labels = [m["hit"][name] for m in means for name in ("positives", "negatives")]
    assert (found.positives, found.negatives) == (sum(labels[::2]), sum(labels[1::2]))
    assert sum(labels) == 240 and f"{found.positives} positives" in found.line()
    nothing = counting.figures(total * 0, 3)
    assert "no shared task" in nothing.line() and "auroc" not in nothing.as_dict()


def test_nothing_of_private_tasks_is_counted() -> None:
    """Each of two silos could recover the other's counts by subtracting its own from the sum."""
    random, model = np.random.default_rng(3), nn.Linear(3, 3)
    x = random.normal(size=(80, 3)).astype(np.float32)
    labels = np.zeros((80, 2, 3), np.float32)
    labels[:, 0] = random.random((80, 3)) < 0.5
    found = []
    for own in (labels[:, 0, 2], 1 - labels[:, 0, 2], np.full(80, np.nan)):
        labels[:, 0, 2] = own
        fold = Fold(x, labels.copy())
        counting = TaskCounting(TASKS, SiloData(fold, fold, "", 0), {"own": Task()})
        found.append(counting.counts(model).tolist())
        assert ("own" in counting.latest) == (not np.isnan(own).any())
    assert found[0] == found[1] == found[2]


def test_a_diverged_model_gets_the_worst_score() -> None:
    labels = np.zeros((40, 2, 2), np.float32)
    labels[:20, 0, 0], labels[:, 0, 1] = 1.0, np.arange(40)
    outputs = np.full((40, 2), np.nan, np.float32)
    found = by_task(outputs, labels, TASKS)
    assert found["hit"]["auroc"] == 0 and found["potency"]["r2"] == -1
    counting = TaskCounting(TASKS, SiloData(fold := Fold(outputs, labels), fold, "", 0))
    whole = counting.figures(counts := counting.counts(nn.Identity()), 1)
    assert counting.possible(counts, 1) and counting.latest == {"hit": {}, "potency": {}}
    # In words, never as the number to which it was cut.
    assert "mean AUROC: diverged" in whole.line() and "mean R2: diverged" in whole.line()
    assert "loss" not in whole.detail() and whole.score.written == "diverged"
    figures = {*CLASSIFIED, *MEASURED, "auprc_at_fixed_rate", "loss", "auroc_low", "r2_low"}
    assert not figures & {*whole.as_dict(), *whole.tracked()}
    assert whole.tracked()["auroc_diverged"] == whole.tracked()["r2_diverged"] == 1.0


def test_an_r2_below_its_cut_is_told_and_counted() -> None:
    """Of three silo-task pairs, one far off: the mean has it as -1 and says so; alone, it is no
    figure."""
    task: Tasks = {"potency": TASKS["potency"]}
    random, total = np.random.default_rng(4), np.zeros(1, np.int64)
    for off in (0.0, 0.0, 30.0):
        labels = np.zeros((60, 2, 1), np.float32)
        labels[:, 0, 0] = random.normal(size=60)
        fold = Fold(labels[:, 0] * 0.9 + np.float32(off), labels)
        counting = TaskCounting(task, SiloData(fold, fold, "", 0))
        counts = counting.counts(nn.Identity())
        total = total + counts
    mean = counting.figures(total, 3)
    assert mean.regression_diverged == 1 and mean.r2 == pytest.approx(
        (0.99 + 0.99 - 1) / 3, abs=0.01
    )
    assert "over 3 silo-task pairs, of which 1 diverged and count as -1" in mean.line()
    assert mean.tracked()["r2_diverged"] == 0.0
    alone = counting.figures(counts, 1)
    assert alone.line().startswith("mean R2: diverged (below -1 in 1 silo-task pair)")
    assert "-1.000" not in alone.detail() and "r2" not in alone.tracked()
    assert counting.latest["potency"]["r2"] < -100, "the silo's own figure is not cut"


def test_private_tasks_are_read_and_never_named(make_job: MakeJob, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("SECRET-7: {kind: binary}\npotency: {kind: regression, qualifier: side}\n")
    tasks = read_private_tasks(path, {})
    assert list(tasks) == ["SECRET-7", "potency"]
    for content in (
        "SECRET-7: {kind: cat}",
        "[1, 2]",
        "{",
        "",
        "SECRET-7: {kind: binary, center: 3}",
    ):
        path.write_text(content)
        with pytest.raises(DataError) as caught:
            read_private_tasks(path, {"x": Task()})
        assert "SECRET" not in str(caught.value)
    path.write_text("potency: {kind: regression, scale: 1e-5}")
    assert read_private_tasks(path, {})["potency"].scale == 1e-5, "numbers as in the job file"
    path.write_text("SECRET-7: {}")
    with pytest.raises(DataError, match="columns is also in data.tasks") as caught:
        read_private_tasks(path, {"SECRET-7": Task()})
    assert "SECRET" not in str(caught.value)
    contract = make_job("data.target=null", "data.tasks={hit: {}}").job.data
    silo = pyarrow.parquet.read_table(tmp_path / "birch.parquet")
    silo = silo.append_column("hit", pa.array([0.0, 1.0] * (silo.num_rows // 2)))
    pyarrow.parquet.write_table(silo, tmp_path / "b.parquet")
    with pytest.raises(DataError) as caught:
        load_data(tmp_path / "b.parquet", contract, tmp_path / "state" / "r.txt", tasks)
    assert "SECRET" not in str(caught.value) and "potency" not in str(caught.value)
    assert (
        "'SECRET-7', 'potency' and 'side' are missing"
        in (tmp_path / "state" / "private_tasks_error.txt").read_text()
    )
    wrong = silo.append_column("SECRET-7", pa.array([7] * silo.num_rows))
    pyarrow.parquet.write_table(wrong, tmp_path / "b.parquet")
    with pytest.raises(DataError, match="holds wrong values") as caught:
        load_data(
            tmp_path / "b.parquet", contract, tmp_path / "state" / "r.txt", {"SECRET-7": Task()}
        )
    assert "SECRET" not in str(caught.value)
    assert "other than 0 and 1" in (tmp_path / "state" / "private_tasks_error.txt").read_text()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("data.tasks={hit: {}}",), "not both"),
        (("data.target=null",), "give data.target, data.tasks"),
        (("data.target=null", "data.tasks={hit: {}}", "privacy.metrics_epsilon=1"), "AUROC"),
        (("silos.alder.private_tasks=own.yaml",), "not with data.target"),
        (
            ("silos.alder.private_tasks=own.yaml", "data.target=null", "data.tasks={hit: {}}"),
            "model.kind mlp",
        ),
        (("data.target=null", "data.tasks={hit: {scale: 2}}"), "belong to regression tasks only"),
        (("data.target=null", "data.tasks={mean_radius: {}}"), "both a feature and a label"),
    ],
)
def test_inconsistent_jobs_are_refused(
    make_job: MakeJob, overrides: tuple[str, ...], said: str
) -> None:
    with pytest.raises(JobError, match=said):
        make_job(*overrides)


def test_groups_have_the_means_of_their_own_tasks_and_need_several(make_job: MakeJob) -> None:
    """Two silos, four tasks in one group, one task in none."""
    tasks = {name: Task(group=None if name == "e" else "admet") for name in "abcde"}
    random, total, own = np.random.default_rng(6), np.zeros(1, np.int64), []
    for _ in range(2):
        labels = np.zeros((150, 2, 5), np.float32)
        labels[:, 0] = random.random((150, 5)) < 0.3
        fold = Fold((labels[:, 0] + random.normal(size=(150, 5))).astype(np.float32), labels)
        counting = TaskCounting(tasks, SiloData(fold, fold, "", 0))
        total = total + counting.counts(nn.Identity())
        own += [counting.latest[name] for name in "abcd"]
    assert counting.possible(total, 2)
    found = counting.figures(total, 2)
    admet = found.groups["admet"]
    assert admet.binary_tasks == 8 and found.binary_tasks == 10
    for name in ("auroc", "conformal_efficiency"):
        assert getattr(admet, name) == pytest.approx(np.mean([o[name] for o in own]), abs=1e-4)
        assert getattr(admet, name) != getattr(found, name)
        low, high = (found.as_dict()[f"{name}_{end}.admet"] for end in ("low", "high"))
        assert low < found.tracked()[f"{name}.admet"] < high
    assert admet.auroc_variance > found.auroc_variance, "fewer tasks"
    wrong = total.copy()
    wrong[len(TASK_COUNTS) + GROUP_COUNTS.index("positives")] = 0
    assert not counting.possible(wrong, 2)
    for job in ("{a: {group: admet}, b: {group: admet}}", "{a: {group: ADMET}}"):
        with pytest.raises(JobError, match="fewer than 3 tasks|pattern"):
            make_job("data.target=null", f"data.tasks={job}")


def test_conformal_figures_are_means_and_shares_of_labels() -> None:
    tasks = {"hit": Task()}
    random, total, own = np.random.default_rng(7), np.zeros(1, np.int64), []
    for _ in range(2):
        labels = np.zeros((200, 2, 1), np.float32)
        labels[:, 0] = random.random((200, 1)) < 0.2
        fold = Fold((labels[:, 0] * 2 + random.normal(size=(200, 1))).astype(np.float32), labels)
        counting = TaskCounting(tasks, SiloData(fold, fold, "", 0))
        total = total + counting.counts(nn.Identity())
        own.append(counting.latest["hit"])
    whole = counting.figures(total, 2)
    for name in ("conformal_efficiency", "enrichment_1_percent", "bedroc", "conformal_empty"):
        expected = np.mean([one[name] for one in own])
        assert getattr(whole, name) == pytest.approx(expected, abs=3e-3)
    for one in (*own, whole.as_dict()):
        for name in ("conformal_efficiency", "coverage_of_positives", "enrichment_5_percent"):
            assert one[f"{name}_low"] < one[name] <= one[f"{name}_high"]
    covered = sum(one["coverage_of_negatives"] * one["negatives"] for one in own)
    assert whole.covered_negatives == round(covered)
    assert "covered_negatives" not in whole.as_dict()
    assert f"conformal efficiency {whole.conformal_efficiency:.3f} (95 %" in whole.detail()
    assert "at 80 % confidence" in whole.detail()
    for name, value in (("covered_positives", whole.positives + 1), ("covered_negatives", -1)):
        wrong = total.copy()
        wrong[TASK_COUNTS.index(name)] = value
        assert not counting.possible(wrong, 2), name
