"""DP-SGD: without clipping and noise it is plain SGD; influence is bounded, and noise is real."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from blindsum.platform.data.records import Fold
from blindsum.platform.job.model_section import Cnn, Linear, Mlp
from blindsum.platform.job.training_section import TrainingSection
from blindsum.platform.privacy.plan import PrivacyPlan
from blindsum.platform.privacy.randomness import cryptographic_generator, seeded_generator
from blindsum.platform.training.chunks import chunk_of
from blindsum.platform.training.local import LocalTrainer
from blindsum.platform.training.models import build_model, get_parameters, set_parameters
from tests.plans import plan_by_hand

PLAN = plan_by_hand()
MLP = Mlp(kind="mlp", hidden=[6], activation="tanh")


def records(count: int, seed: int = 0) -> Fold:
    random = np.random.default_rng(seed)
    return Fold(random.normal(size=(count, 4)).astype(np.float32), random.integers(0, 3, count))


def section(**changes: object) -> TrainingSection:
    plain = {
        "rounds": 1,
        "local_steps": 1,
        "sampling_rate": 1.0,
        "expected_batch_size": 40.0,
        "learning_rate": 0.5,
    }
    return TrainingSection.model_validate(plain | changes)


def update(
    data: Fold,
    training: TrainingSection,
    plan: PrivacyPlan | None,
    random=None,
    model=MLP,  # type: ignore[no-untyped-def]
) -> np.ndarray:
    net = build_model(model, 4, 3, seed=0, private=True)
    start = get_parameters(net)
    trainer = LocalTrainer(net, data, training, plan, random or cryptographic_generator())
    return trainer.train(start).values


def test_no_noise_and_no_clipping_is_plain_sgd() -> None:
    data, training = records(40), section(local_steps=3)
    loose = replace(PLAN, noise_multiplier=0.0, clip_norm=1e6)
    net = build_model(MLP, 4, 3, seed=0, private=True)
    start = get_parameters(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        functional.cross_entropy(
            net(torch.from_numpy(data.features)), torch.from_numpy(data.labels)
        ).backward()
        optimizer.step()
    oracle = get_parameters(net) - start
    np.testing.assert_allclose(update(data, training, loose), oracle, atol=1e-6)
    np.testing.assert_allclose(update(data, training, None), oracle, atol=1e-6)


def test_one_record_moves_the_update_by_at_most_the_clip_norm() -> None:
    """This fails without clipping: the outlier's gradient is far larger."""
    data = records(40)
    outlier = Fold(np.full((1, 4), 5.0, np.float32), np.array([2]))
    with_it = Fold(np.vstack([data.features, outlier.features]), np.append(data.labels, 2))
    clip = 0.1
    plan = replace(PLAN, noise_multiplier=0.0, clip_norm=clip)
    moved = np.linalg.norm(update(with_it, section(), plan) - update(data, section(), plan))
    assert 0.5 * clip <= moved * 40 / 0.5 <= clip * 1.001
    loose = replace(plan, clip_norm=1e6)
    freely = np.linalg.norm(update(with_it, section(), loose) - update(data, section(), loose))
    assert freely > 5 * moved


def test_noise_has_the_planned_deviation_and_never_repeats() -> None:
    """This fails if the noise is removed, scaled or seeded."""
    plan = replace(PLAN, noise_multiplier=2.0, clip_norm=0.5)
    quiet = replace(plan, noise_multiplier=0.0)
    net = Mlp(kind="mlp", hidden=[2000], activation="tanh")
    data = records(40)
    noise = [
        update(data, section(), plan, model=net) - update(data, section(), quiet, model=net)
        for _ in range(2)
    ]
    scale = 0.5 / 40 * 2.0 * 0.5  # learning rate / divisor * sigma * C
    for one in noise:
        assert one.std() == pytest.approx(scale, rel=0.03)
        assert abs(one.mean()) < 5 * scale / np.sqrt(one.size)
    assert abs(np.corrcoef(*noise)[0, 1]) < 0.05


def test_the_divisor_is_the_public_constant_not_the_batch() -> None:
    """Half the records give half the update: the size of the data is not a divisor."""
    data = records(40)
    doubled = Fold(np.repeat(data.features, 2, 0), np.repeat(data.labels, 2))
    plan = replace(PLAN, noise_multiplier=0.0)
    for one in (plan, None):
        np.testing.assert_allclose(
            update(doubled, section(), one), 2 * update(data, section(), one), rtol=1e-3, atol=1e-6
        )


def test_an_empty_poisson_sample_gives_a_step_of_only_noise() -> None:
    training = section(sampling_rate=1e-12)
    assert np.all(update(records(40), training, None) == 0)
    quiet = update(records(40), training, replace(PLAN, noise_multiplier=0.0))
    assert np.all(quiet == 0)
    assert np.all(update(records(40), training, PLAN) != 0)


def test_each_record_is_sampled_with_the_rate() -> None:
    """Records are one-hot: a record was sampled if its weight moved."""
    count, rate = 400, 0.3
    data = Fold(np.eye(count, dtype=np.float32), np.zeros(count, np.int64))
    net = build_model(Linear(kind="linear"), count, 2, seed=0, private=True)
    start = get_parameters(net)
    trainer = LocalTrainer(
        net,
        data,
        section(sampling_rate=rate),
        replace(PLAN, noise_multiplier=0.0, sampling_rate=rate),
        cryptographic_generator(),
    )
    samples = np.array([trainer.train(start).values[:count] != 0 for _ in range(60)])
    per_step = samples.sum(axis=1)
    assert per_step.mean() == pytest.approx(count * rate, rel=0.05)
    assert per_step.std() == pytest.approx(np.sqrt(count * rate * (1 - rate)), rel=0.4)
    assert samples.mean(axis=0).max() < 0.7


def test_cryptographic_generators_differ_and_seeded_ones_do_not() -> None:
    a, b = cryptographic_generator(), cryptographic_generator()
    assert not np.array_equal(a.random(100), b.random(100))
    assert np.array_equal(seeded_generator(1, "a").random(9), seeded_generator(1, "a").random(9))
    assert not np.array_equal(
        seeded_generator(1, "a").random(9), seeded_generator(1, "b").random(9)
    )


def test_training_starts_from_the_given_model(monkeypatch: pytest.MonkeyPatch) -> None:
    data = records(40)
    net = build_model(MLP, 4, 3, seed=0, private=True)
    trainer = LocalTrainer(net, data, section(), None, seeded_generator(0))
    start = get_parameters(net)
    first = trainer.train(start).values
    set_parameters(net, start + 1)
    np.testing.assert_array_equal(trainer.train(start).values, first)


def test_a_record_that_overflows_counts_as_zero_and_does_not_end_the_run() -> None:
    data = records(40)
    wild = Fold(data.features.copy(), data.labels)
    wild.features[0] = np.inf
    net = build_model(MLP, 4, 3, seed=0, private=True)
    start = get_parameters(net)
    plan = replace(PLAN, noise_multiplier=0.0)
    trainer = LocalTrainer(net, wild, section(), plan, cryptographic_generator())
    assert np.isfinite(trainer.train(start).values).all()


@pytest.mark.parametrize("plan", [None, replace(PLAN, noise_multiplier=0.0, clip_norm=0.3)])
def test_chunks_change_no_sum_beyond_rounding(plan: PrivacyPlan | None) -> None:
    """A sample that is larger than the memory is worked in chunks."""
    data = records(40)
    whole = update(data, section(), plan, seeded_generator(1))
    for chunk in (1, 7, 40):
        found = update(data, section(chunk=chunk), plan, seeded_generator(1))
        np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-7)


def test_no_more_records_than_a_chunk_are_computed_at_a_time() -> None:
    seen = []
    net = build_model(MLP, 4, 3, seed=0, private=True)
    net.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    trainer = LocalTrainer(net, records(40), section(chunk=7), None, seeded_generator(1))
    trainer.train(get_parameters(net))
    assert seen == [7, 7, 7, 7, 7, 5]


def test_the_more_values_layers_make_of_a_record_the_smaller_is_a_chunk() -> None:
    """Otherwise a sample of pictures would need gigabytes for what convolutions return."""
    data = Fold(np.zeros((5, 28 * 28), np.float32), np.zeros(5, np.int64))
    sizes = []
    for model in (Linear(kind="linear"), Cnn(kind="cnn", channels=[16, 32])):
        net = build_model(model, (1, 28, 28), 2, seed=0, private=True)
        sizes.append(chunk_of(net, data, section()))
    assert sizes[0] == 64 * 2**20 // (4 * (28 * 28 + 2))
    assert 100 < sizes[1] < 500
