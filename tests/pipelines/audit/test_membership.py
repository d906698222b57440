"""Shadow models train as the product does; likelihood ratios are those of Gaussians."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_curve

from blindsum.pipelines.audit.attacks import membership, shadows
from blindsum.pipelines.audit.attacks.shadow_training import Recipe, trained
from blindsum.pipelines.audit.attacks.stacked import Stack, stackable
from blindsum.platform.data.records import Fold
from blindsum.platform.data.table import load_data
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.randomness import cryptographic_generator
from blindsum.platform.training.losses import classification
from blindsum.platform.training.models import get_parameters
from tests.conftest import MakeJob
from tests.plans import plan_by_hand


@pytest.mark.parametrize(
    "model",
    ["{kind: linear}", "{kind: mlp, hidden: [7, 5], activation: relu}", "{kind: mlp, hidden: [6]}"],
)
@pytest.mark.parametrize("clip", [None, 0.3])
def test_stacked_models_take_the_products_steps(
    make_job: MakeJob, model: str, clip: float | None
) -> None:
    """Against LocalTrainer, with every record in every sample and no noise."""
    compare_with_the_product(make_job(f"model={model}", *EVERY_RECORD).job, clip)


@pytest.mark.parametrize(
    "options",
    [
        "server={optimizer: momentum, learning_rate: 0.3}",
        "server={optimizer: adam, learning_rate: 0.01, weight_decay: 0.1}",
        "training.optimizer=adam",
        "training.schedule={kind: cosine}",
    ],
)
def test_stacked_models_take_the_steps_of_every_optimizer(make_job: MakeJob, options: str) -> None:
    compare_with_the_product(
        make_job("model={kind: mlp, hidden: [5]}", *EVERY_RECORD, options).job, 0.3
    )


EVERY_RECORD = ("training.sampling_rate=1", "training.local_steps=3")


def compare_with_the_product(job: Job, clip: float | None) -> None:
    assert stackable(job)
    random = np.random.default_rng(0)
    features = random.normal(size=(30, 4)).astype(np.float32)
    labels = random.integers(0, 2, 30)
    members = random.random((3, 30)) < 0.5
    plan = plan_by_hand(noise_multiplier=0.0, clip_norm=clip, steps_per_round=3) if clip else None
    recipe = Recipe(job.training, job.server, 3, plan)
    stack = Stack(job, 4, 3)
    stack.train(
        torch.from_numpy(features),
        torch.from_numpy(labels),
        torch.from_numpy(members),
        recipe,
        torch.Generator().manual_seed(0),
    )
    for k in range(3):
        fold = Fold(features[members[k]], labels[members[k]])
        alone = trained(job, fold, recipe, classification, cryptographic_generator())
        flat = [t for w, b in zip(stack.weights, stack.biases, strict=True) for t in (w[k], b[k])]
        ours = torch.cat([t.flatten() for t in flat]).numpy()
        np.testing.assert_allclose(ours, get_parameters(alone), atol=5e-4)


def test_stacked_noise_has_the_planned_deviation(make_job: MakeJob) -> None:
    job = make_job(
        "model={kind: mlp, hidden: [400]}",
        "training.local_steps=4",
        "training.learning_rate=2.0",
        "training.expected_batch_size=10",
    ).job
    stack, quiet = Stack(job, 4, 2), Stack(job, 4, 2)
    nobody = torch.zeros(2, 5, dtype=torch.bool)
    stack.train(
        torch.zeros(5, 4),
        torch.zeros(5, dtype=torch.long),
        nobody,
        Recipe(job.training, job.server, 1, plan_by_hand(noise_multiplier=3.0, clip_norm=0.5)),
        torch.Generator().manual_seed(0),
    )
    noise = (stack.weights[0] - quiet.weights[0]).flatten()
    assert float(noise.std()) == pytest.approx(2.0 / 10 * 3 * 0.5 * 2, rel=0.05)


def gaussian_shadows(models: int, records: int, gap: float) -> membership.Shadows:
    random = np.random.default_rng(1)
    members = shadows.memberships(records, models)
    middle, spread = random.normal(0, 3, records), random.uniform(0.3, 2, records)
    scaled = middle + spread * random.normal(size=(models, records)) + gap * members
    population = np.logaddexp(0.0, -random.normal(0, 3, (models, 200)))
    return membership.Shadows(scaled, np.logaddexp(0.0, -scaled), members, population)


def test_every_record_is_in_half_of_the_models() -> None:
    members = shadows.memberships(37, 32)
    assert (members.sum(0) == 16).all() and len(np.unique(members, axis=0)) == 32


def test_likelihood_ratios_beat_confidence_and_variances_by_record_help() -> None:
    seen = gaussian_shadows(128, 400, 1.5)
    found = {by: membership.scores(seen, by_record=by)["lira"] for by in (True, False)}
    rate = {by: membership.tpr_at(s.ravel(), seen.members.ravel(), 0.01) for by, s in found.items()}
    weak = membership.scores(seen)["confidence"]
    assert rate[True] > rate[False] > membership.tpr_at(weak.ravel(), seen.members.ravel(), 0.01)
    nothing = gaussian_shadows(64, 400, 0.0)
    for attack in membership.scores(nothing).values():
        assert membership.tpr_at(attack.ravel(), nothing.members.ravel(), 0.01) < 0.02


def test_a_ratio_is_that_of_the_two_gaussians() -> None:
    seen = gaussian_shadows(80, 3, 1.0)
    got = membership.scores(seen, by_record=True)["lira"][5, 1]
    others = np.arange(80) != 5
    values, inside = seen.statistics[others, 1], seen.members[others, 1]
    logs = [
        norm.logpdf(seen.statistics[5, 1], part.mean(), part.std(ddof=1))
        for part in (values[inside], values[~inside])
    ]
    assert got == pytest.approx(logs[0] - logs[1])


@pytest.mark.parametrize("fpr", [0.0, 0.001, 0.01, 0.3])
def test_rates_are_those_of_scikit_learn(fpr: float) -> None:
    random = np.random.default_rng(2)
    inside = random.random(5000) < 0.5
    scores = random.normal(size=5000) + inside
    fprs, tprs, _ = roc_curve(inside, scores, drop_intermediate=False)
    assert membership.tpr_at(scores, inside, fpr) == pytest.approx(
        tprs[fprs <= fpr].max(), abs=1e-3
    )


def test_precision_follows_from_the_rates() -> None:
    figure = membership.rates(np.array([[3.0, 2, 1, 0]] * 2), np.array([[1, 1, 0, 0]] * 2) > 0, 0.0)
    assert figure.value == 1.0 and membership.precision(figure, 0.0).value == 1.0
    assert membership.precision(figure, 0.001).value == pytest.approx(1 / 1.001)


@pytest.mark.usefixtures("cluster")
def test_shadow_models_are_trained_once_and_kept_private(make_job: MakeJob, tmp_path: Path) -> None:
    job_file = make_job()
    data = load_data(tmp_path / "alder.parquet", job_file.job.data, tmp_path / "rejected")
    steps: list[int] = []

    def run() -> membership.Shadows:
        steps.append(0)
        (seen,) = shadows.shadows(
            job_file.job,
            "alder",
            str(job_file.folder),
            data,
            tmp_path / "kept",
            20,
            Recipe(job_file.job.training, job_file.job.server, 3),
            lambda: steps.append(1),
        ).values()
        return seen

    first = run()
    assert first.losses.shape == (20, len(data.train)) and steps == [0, 1, 1]
    files = sorted((tmp_path / "kept").iterdir())
    assert len(files) == 2 and all(f.stat().st_mode & 0o777 == 0o600 for f in files)
    written = [f.stat().st_mtime_ns for f in files]
    files[1].write_bytes(b"cut short")  # interrupted after the first
    again = run()
    np.testing.assert_array_equal(again.statistics, first.statistics)
    assert files[0].stat().st_mtime_ns == written[0]
    labels, canaries = shadows.mislabelled(job_file.job, data)
    assert ((labels != data.train.labels) == canaries).all() and canaries.any()
