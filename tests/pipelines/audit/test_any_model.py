"""Shadow models of any kind show who was trained on, unless noise hides it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from blindsum.pipelines.audit import membership_attack
from blindsum.pipelines.audit.attacks import membership, shadows
from blindsum.pipelines.audit.attacks.layers import Layers
from blindsum.pipelines.audit.attacks.shadow_training import Recipe, seconds_of_one, trained
from blindsum.pipelines.audit.attacks.stacked import stackable
from blindsum.pipelines.audit.audited import load_audited
from blindsum.pipelines.audit.labelling import WHOLE, labelling
from blindsum.pipelines.audit.outcome import QUICK, Audit
from blindsum.pipelines.audit.victim import SeenUpdate, Victim
from blindsum.platform.data.records import Fold
from blindsum.platform.data.table import SiloData
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.paths import silo_places
from blindsum.platform.job.schema import Job
from blindsum.platform.training.models import get_parameters, model_of
from tests.conftest import MakeJob
from tests.plans import plan_by_hand

PICTURES = "data.features={kind: images, height: 8, width: 8, channels: 1}"
CNN = "model={kind: cnn, channels: [8], activation: tanh}"
TEXT = "data.features={kind: text, column: note, length: 12}"
TRANSFORMER = "model={kind: transformer, width: 8, heads: 2, layers: 1, hidden: 12}"
ONE_STEP = (
    "training.local_steps=1",
    "training.sampling_rate=1",
    "training.expected_batch_size=10",
    "training.rounds=20",
    "training.learning_rate=1.0",
    "server={optimizer: adam, learning_rate: 0.02}",
)
RECORDS, MODELS = 20, 10


def records_of(job: Job, count: int) -> Fold:
    """Records without any pattern: a model knows one only from training."""
    random = np.random.default_rng(0)
    text = job.data.features.kind == "text"
    width = 12 if text else 64
    values = random.integers(1, 257, (count, width)) if text else random.normal(size=(count, width))
    return Fold(values.astype(np.float32), random.integers(0, 2, count))


def recipe_of(job: Job, noise: float | None) -> Recipe:
    plan = None if noise is None else plan_by_hand(noise_multiplier=noise, clip_norm=1.0)
    return Recipe(job.training, job.server, job.training.rounds, plan)


def observed(job: Job, recipe: Recipe) -> membership.Shadows:
    data = SiloData(records_of(job, RECORDS), records_of(job, RECORDS), "", 0)
    members = shadows.memberships(RECORDS, MODELS)
    shard = shadows.Shard(job, "birch", "", "", 0, MODELS, MODELS, recipe)
    outputs = shadows._one_by_one(shard, data, data.train.labels, members)
    of_train, of_test = (shadows._finite(torch.stack(fold)) for fold in zip(*outputs, strict=True))
    read = labelling(job)
    own = read.observe(of_train, data.train.labels, (WHOLE,))
    others = read.observe(of_test, data.test.labels, (WHOLE,))
    return membership.Shadows(own.statistics[0], own.losses[0], members, others.losses[0])


def advantage(job: Job, noise: float | None) -> float:
    """The chance that a record's score is higher in a model trained on it; 0.5 is guessing."""
    seen = observed(job, recipe_of(job, noise))
    return float(membership.exposure(membership.scores(seen)["lira"], seen.members).mean())


@pytest.mark.parametrize("options", [(PICTURES, CNN), (TEXT, TRANSFORMER)], ids=["cnn", "text"])
def test_members_are_found_without_noise_and_not_with_it(
    make_job: MakeJob, options: tuple[str, ...]
) -> None:
    job = make_job(*options, *ONE_STEP).job
    assert not stackable(job)
    assert advantage(job, None) > 0.65
    assert advantage(job, 0.0) > 0.65, "clipping alone hides nobody"
    assert advantage(job, 20.0) < 0.6


def test_a_shadow_model_keeps_what_the_job_freezes(make_job: MakeJob) -> None:
    job = make_job(TEXT, TRANSFORMER, *ONE_STEP, "model.freeze=['model.tokens.*']").job
    loss = labelling(job).loss
    recipe = replace(recipe_of(job, 0.5), rounds=2)
    made = trained(job, records_of(job, 9), recipe, loss, np.random.default_rng(0))
    start = model_of(job, private=False)
    before, after = dict(start.named_parameters()), dict(made.named_parameters())
    assert torch.equal(before["model.tokens.weight"], after["model.tokens.weight"])
    assert (get_parameters(start) != get_parameters(made)).any()
    assert not stackable(make_job("model={kind: mlp, freeze: ['0.*']}").job)
    assert seconds_of_one(job, records_of(job, 9), recipe, loss) > 0


def test_a_shadow_model_trains_adapters_alone(make_job: MakeJob) -> None:
    job = make_job("model={kind: mlp, hidden: [6], lora: {rank: 2, alpha: 4, targets: ['0']}}").job
    assert not stackable(job)
    random = np.random.default_rng(0)
    fold = Fold(random.normal(size=(9, 4)).astype(np.float32), random.integers(0, 2, 9))
    recipe = Recipe(job.training, job.server, 2, plan_by_hand())
    made = trained(job, fold, recipe, labelling(job).loss, random)
    start = dict(model_of(job, private=False).named_parameters())
    moved = {n for n, p in made.named_parameters() if not torch.equal(p, start[n])}
    assert moved and not any(n in moved for n, p in start.items() if not p.requires_grad)
    assert Layers.of(made).first is None, "what is frozen is in no update"


def test_a_frozen_layer_comes_before_the_gradients_of_the_others(make_job: MakeJob) -> None:
    """Gradients are those of trained parameters alone."""
    job = make_job("model={kind: mlp, hidden: [6], activation: relu, freeze: ['0.*']}").job
    model = model_of(job, private=False)
    trained_ones = [p for p in model.parameters() if p.requires_grad]
    seen = SeenUpdate([torch.full_like(p, float(i)) for i, p in enumerate(trained_ones)])
    assert (seen.of(trained_ones[1], model) == 1.0).all()
    layers = Layers.of(model)
    assert layers.first is None and layers.last is not None


def test_a_worker_trains_a_model_that_lies_beside_the_job(
    make_job: MakeJob, tmp_path: Path
) -> None:
    """As in a worker of Ray, which calls this function."""
    (tmp_path / "gating.py").write_text(
        "from torch import nn\n\ndef build(features, outputs):\n"
        "    return nn.Sequential(nn.Linear(features, 2 * outputs), nn.GLU())\n"
    )
    job_file = make_job("model={kind: factory, factory: 'gating:build'}")
    job, path, cores = job_file.job, tmp_path / "0002.npz", torch.get_num_threads()
    recipe = Recipe(job.training, job.server, 2, plan_by_hand())
    folder = str(job_file.folder)
    try:
        shadows.train_shard(shadows.Shard(job, "birch", folder, str(path), 2, 2, 8, recipe))
    finally:
        torch.set_num_threads(cores)
    train, test = (len(fold) for fold in load_of(job_file))
    with np.load(path) as written:
        assert written["losses"].shape == written["statistics"].shape == (1, 2, train)
        assert written["population"].shape == (1, 2, test)
        assert (written["losses"][0, 0] != written["losses"][0, 1]).any()
    assert path.stat().st_mode & 0o777 == 0o600


def load_of(job_file: JobFile) -> tuple[Fold, Fold]:
    places = silo_places(job_file.silo("birch"), str(job_file.folder))
    data = load_audited(job_file.job, "birch", places).data
    return data.train, data.test


def test_as_many_models_are_trained_as_the_time_allows(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job, own = make_job(PICTURES, CNN, *ONE_STEP).job, plan_by_hand()
    data = SiloData(records_of(job, RECORDS), records_of(job, RECORDS), "", 0)
    victim, found = Victim(job, "birch", data, own), Audit(job, "birch", QUICK, own)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    folders = {k: tmp_path / str(k) for k in membership_attack._ladder(QUICK)}
    assert list(folders) == [32, 24, 16, 12, 8]
    for each, models in ((0.1, 32), (4.0, 12), (20.0, 8), (31.0, 0)):
        monkeypatch.setattr(membership_attack, "seconds_of_one", lambda *_, each=each: each)
        assert membership_attack._affordable(found, victim, recipe_of(job, None), folders) == models
    folders[24].mkdir()
    assert membership_attack._affordable(found, victim, recipe_of(job, None), folders) == 24


def test_few_models_have_wide_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 12 of them, quantiles of a bootstrap are too narrow."""
    random = np.random.default_rng(0)
    members = shadows.memberships(40, 12)
    scores = random.normal(size=(12, 40)) + 0.5 * members
    wide = membership.rates(scores, members, 0.1)
    monkeypatch.setattr(membership, "MANY", 1)
    narrow = membership.rates(scores, members, 0.1)
    assert wide.low is not None and wide.high is not None
    assert narrow.low is not None and narrow.high is not None
    assert wide.high - wide.low > 1.05 * (narrow.high - narrow.low)


def test_without_privacy_the_better_of_clipped_and_unclipped_training_counts(
    make_job: MakeJob,
) -> None:
    """At a rate for clipped gradients unclipped training may diverge, and look worse than noise."""
    random = np.random.default_rng(1)
    fold = Fold(random.normal(size=(60, 4)).astype(np.float32), random.integers(0, 2, 60))
    for rate, clip_norm, clipped in ((0.05, 1e-3, False), (2000.0, 1e-4, True)):
        job = make_job("training.rounds=20", f"training.learning_rate={rate}").job
        own = plan_by_hand(clip_norm=clip_norm)
        victim = Victim(job, "birch", SiloData(fold, fold, "", 0), own)
        bare = victim.without_noise()
        assert (bare is not None) == clipped
        assert bare is None or bare.update_noise == 0.0
        assert ("with the job's clip norm" in victim.reference) == clipped
    assert victim.alone().update_noise == own.update_noise
