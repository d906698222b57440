"""A round's random subset, and gradients that are dropped outside of it before they are clipped."""

import hashlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from blindsum.actors.silo import Silo
from blindsum.platform.errors import FederationError, JobError
from blindsum.platform.job.training_section import ServerSection
from blindsum.platform.privacy.randomness import seeded_generator
from blindsum.platform.training.clipping.by_record import OneByOne, Vectorised
from blindsum.platform.training.clipping.choice import clipped_sum
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import get_parameters, set_parameters
from blindsum.platform.training.server_optimizer import ServerOptimizer
from blindsum.platform.training.subset import GROUP, Subset, chosen_count
from tests.actors.test_restore import again
from tests.actors.test_silo import NO_NOISE, SHARED, Consortium
from tests.conftest import MakeJob
from tests.platform.test_clipping import FEATURES, MODELS, batch

TERMS = hashlib.sha256(b"terms").hexdigest()
HALF = "training.subset=0.5"


@given(
    parameters=st.integers(1, 3 * GROUP),
    share=st.floats(1e-6, 1),
    round=st.integers(1, 10**6),
)
def test_every_group_has_its_number_of_places(parameters: int, share: float, round: int) -> None:
    subset = Subset(TERMS, round, parameters, share)
    found = [*subset.groups()]
    places = np.concatenate([where for where, _ in found])
    assert places.size == subset.size == chosen_count(parameters, share)
    assert (np.diff(places) > 0).all() and 0 <= places[0] and places[-1] < parameters
    assert [at.start for _, at in found] == [0, *(at.stop for _, at in found[:-1])]
    for start in range(0, parameters, GROUP):
        within = np.count_nonzero((places >= start) & (places < start + GROUP))
        size = min(GROUP, parameters - start)
        assert max(1.0, size * share) <= within <= max(1.0, size * share + 1)
    mask = subset.mask()
    np.testing.assert_array_equal(np.flatnonzero(mask), places)
    vector = np.arange(parameters, dtype=np.float32)
    np.testing.assert_array_equal(subset.of(vector), vector[mask])


def test_golden_places() -> None:
    """Silos of every version and machine must choose these."""
    places = np.concatenate([where for where, _ in Subset(TERMS, 7, GROUP + 9, 0.001).groups()])
    assert hashlib.sha256(places.astype("<i8").tobytes()).hexdigest() == GOLDEN


def test_rounds_and_jobs_choose_independently_and_every_place_alike() -> None:
    parameters, rounds = 1000, 2000
    masks = [Subset(TERMS, round, parameters, 0.1).mask() for round in range(1, rounds + 1)]
    assert len({mask.tobytes() for mask in masks}) == rounds
    other = Subset(hashlib.sha256(b"other").hexdigest(), 1, parameters, 0.1)
    assert (other.mask() != masks[0]).any()
    times = np.sum(masks, axis=0)  # binomial: mean 200, deviation 13.4
    assert 130 < times.min() and times.max() < 270
    both = [np.count_nonzero(a & b) for a, b in pairwise(masks)]  # mean 10
    assert 9.5 < np.mean(both) < 10.5


@pytest.mark.parametrize("name", MODELS)
def test_gradients_outside_count_neither_for_norms_nor_for_sums(name: str) -> None:
    torch.manual_seed(1)
    model = MODELS[name]()
    features, labels = batch(9)
    parameters = [p for p in model.parameters() if p.requires_grad]
    masks = [torch.rand(p.shape) < 0.3 for p in parameters]
    each = []
    for one, label in zip(features, labels, strict=True):
        torch.manual_seed(5)
        loss = functional.cross_entropy(model(one[None]), label[None])
        found = torch.autograd.grad(loss, parameters, materialize_grads=True)
        each.append([g.double() * mask for g, mask in zip(found, masks, strict=True)])
    norms = torch.tensor([float(torch.cat([g.flatten() for g in one]).norm()) for one in each])
    clip = float(norms.median()) * 1.001
    chosen = clipped_sum(model, FEATURES)
    ways = [chosen.way, OneByOne(model), Vectorised(model)]
    for way in ways if name != "dropout" else ():
        sums, within = way(features, labels, clip, masks)
        assert within == int((norms <= clip).sum())
        for i, (total, mask) in enumerate(zip(sums, masks, strict=True)):
            factors = (clip / norms).clamp(max=1.0)
            expected = sum(f * one[i] for f, one in zip(factors, each, strict=True))
            torch.testing.assert_close(total.double(), expected, rtol=1e-4, atol=1e-5)
            assert not total[~mask].any()


def test_a_record_that_is_no_number_outside_of_the_mask_leaves_nothing_there() -> None:
    model = MODELS["dropout"]().eval()
    masks = [torch.zeros(p.shape, dtype=torch.bool) for p in model.parameters()]
    features, labels = batch(3)
    features[1] = float("inf")
    for way in (clipped_sum(model, FEATURES), OneByOne(model)):
        assert not any(one.any() for one in way(features, labels, 1.0, masks).sums)


def test_a_server_step_changes_nothing_outside() -> None:
    size = GROUP + 100
    subset, random = Subset(TERMS, 1, size, 0.2), np.random.default_rng(0)
    mask = subset.mask()
    for optimizer in ("sgd", "momentum", "adam"):
        section = ServerSection.model_validate({"optimizer": optimizer, "weight_decay": 0.1})
        part, whole = ServerOptimizer(section, size), ServerOptimizer(section, size)
        model, mean = random.normal(size=size).astype(np.float32), random.normal(size=size)
        part.state = whole.state = tuple(random.random(size) for _ in whole.state)
        before = part.state
        following, expected = part.apply(model, mean[mask], subset), whole.apply(model, mean)
        np.testing.assert_array_equal(following, np.where(mask, expected, model))
        for old, new, all_new in zip(before, part.state, whole.state, strict=True):
            np.testing.assert_array_equal(new, np.where(mask, all_new, old))


@pytest.mark.parametrize(
    "settings",
    [
        (NO_NOISE, "server={optimizer: momentum, weight_decay: 0.01}"),
        (NO_NOISE, "training.optimizer=adam", "training.proximal=0.1"),
        ("server={optimizer: adam}",),
        (*SHARED, "privacy.clip_quantile=0.5"),
    ],
)
def test_a_round_changes_its_subset_and_nothing_else(
    make_job: MakeJob, settings: tuple[str, ...]
) -> None:
    """All silos choose the same places, and others in the next round."""
    consortium = Consortium(make_job(HALF, "model={kind: mlp, hidden: [20]}", *settings))
    size, silos = consortium.values, consortium.silos.values()
    consortium.values = chosen_count(size, 0.5)
    assert consortium.values == -(-size // 2) < size
    masks = []
    for number in (1, 2):
        before = [silo._model.vector.copy() for silo in silos]
        (chosen,) = {one._own.subset(number).mask().tobytes() for one in silos}
        masks.append(np.frombuffer(chosen, np.bool_))
        consortium.round(number)
        after = consortium.models()
        assert len({one.tobytes() for one in after}) == 1
        changed = after[0] != before[0]
        assert not changed[~masks[-1]].any() and changed[masks[-1]].mean() > 0.9
    assert (masks[0] != masks[1]).any()


def test_an_update_has_noise_on_its_subset_alone(make_job: MakeJob) -> None:
    consortium = Consortium(make_job(HALF))
    silo: Silo = consortium.silos["alder"]
    own, start = silo._own, silo._model.vector
    subset = own.subset(1)
    assert subset is not None
    values = own.trainer.train(start, 1.0, 1, subset).values
    change = get_parameters(own.model) - start
    np.testing.assert_array_equal(values, change[subset.mask()])
    assert values.all() and not change[~subset.mask()].any()


def test_the_noise_of_a_subset_has_the_plan_s_deviation(make_job: MakeJob) -> None:
    """Fewer values, and each with the whole noise: sigma C, as of every Gaussian mechanism."""
    job = ("training.sampling_rate=0.001", "training.local_steps=1")
    consortium = Consortium(make_job(HALF, "model={kind: mlp, hidden: [900]}", *job))
    own = consortium.silos["alder"]._own
    assert own.plan is not None
    own.trainer._random = seeded_generator(1)
    found = own.trainer.train(consortium.models()[0], 1.0, 1, own.subset(1)).values
    training = own.job.training
    rate = training.learning_rate / training.expected_batch_size
    deviation = rate * own.plan.update_noise * own.plan.clip_norm
    assert found.std() == pytest.approx(deviation, rel=0.05)


def test_gradients_outside_are_dropped_before_they_are_clipped(make_job: MakeJob) -> None:
    """Clipped first, a record would have a tenth of its length inside and the whole noise."""
    job = ("training.sampling_rate=1", "training.local_steps=1", "privacy.clip_norm=0.05")
    silo = Consortium(make_job("training.subset=0.2", *job)).silos["alder"]
    own, start, training = silo._own, silo._model.vector, silo._job.training
    subset = own.subset(1)
    assert own.plan is not None and subset is not None
    data, model = own.data.train, own.model
    trainer = LocalTrainer(model, data, training, own.plan.without_noise(), own.random)
    found = trainer.train(start, 1.0, 1, subset)
    set_parameters(model, start)
    mask = torch.from_numpy(subset.mask())
    parts = torch.split(mask, [8, 2])
    masks = [part.view_as(p) for p, part in zip(model.parameters(), parts, strict=True)]
    ((features, labels),) = data.batches(np.arange(len(data)))
    expected, within = OneByOne(model)(features, labels, 0.05, masks)
    flat = torch.cat([one.flatten() for one in expected])[mask].numpy()
    rate = training.learning_rate / training.expected_batch_size
    np.testing.assert_allclose(found.values, -rate * flat, rtol=1e-4, atol=1e-6)
    assert found.unclipped == within - len(data) / 2 and within < len(data)


def test_another_size_than_the_subset_s_is_refused(make_job: MakeJob) -> None:
    consortium = Consortium(make_job(HALF))
    exchange = consortium.exchange()
    with pytest.raises(FederationError, match="the announced size is 10; this silo allows 5"):
        consortium.silos["alder"].train(replace(exchange, values=10))


def test_a_run_resumes_with_the_same_subsets(make_job: MakeJob) -> None:
    consortium = Consortium(make_job(HALF, "server={optimizer: momentum}"))
    consortium.values = chosen_count(consortium.values, 0.5)
    consortium.round(1)
    silo = again(consortium)
    silo.inspect()
    assert silo.restore(1) == consortium.model
    ours, others = silo._own.subset(2), consortium.silos["birch"]._own.subset(2)
    assert ours is not None and others is not None
    assert ours.mask().tobytes() == others.mask().tobytes()


@pytest.mark.parametrize("share", ["0", "1.1", "-0.5"])
def test_other_shares_are_refused(make_job: MakeJob, share: str) -> None:
    with pytest.raises(JobError, match=r"training\.subset"):
        make_job(f"training.subset={share}")


def test_workers_do_not_know_the_subset(make_job: MakeJob) -> None:
    with pytest.raises(JobError, match=r"training\.subset cannot be combined with silos\.workers"):
        make_job(HALF, "silos.alder.workers=2")


GOLDEN = "f51755b8141c1a4630004dba11fb864a33aff1f07e71c12012607ee35a82c0b9"
