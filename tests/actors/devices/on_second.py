"""What a silo does on a GPU, tried on a second device that needs none. `test_devices` runs it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from blindsum.actors import prepared
from blindsum.platform.data.device import CPU, device_of, on
from blindsum.platform.privacy.gaussian_noise import add_gaussian
from blindsum.platform.training.clipping.choice import clipped_sum
from tests.actors.devices.second import DEVICE
from tests.actors.test_silo import NO_NOISE, SHARED, Consortium
from tests.actors.workers.test_team import SEEDED, close, with_tasks
from tests.conftest import MakeJob
from tests.platform.clipped_models import CLASSES, FAMILIES
from tests.platform.test_clipping_families import shaken

__all__ = ["with_tasks"]  # a fixture

ON_GPU = "silos.alder.resources={gpus: 1}"


@pytest.fixture(autouse=True)
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "device_for", lambda gpus: DEVICE if gpus else CPU)


def test_tensors_of_two_devices_do_not_mix() -> None:
    with pytest.raises(RuntimeError, match="two devices"):
        torch.ones(2, 2).to(DEVICE) @ torch.ones(2, 2)


NOT_THERE = {
    **dict.fromkeys(("gru", "lstm", "lstm of two layers"), "the device has no kernel for cells"),
    "tied mixture": "only devices in C++ keep tied weights tied when a model moves",
}


@pytest.mark.parametrize("name", FAMILIES.keys() - NOT_THERE)
def test_clipped_sums_are_those_of_the_processor(name: str) -> None:
    torch.manual_seed(3)
    make, records, method = FAMILIES[name]
    model = make()
    shaken(model)
    features, labels = records(7), torch.randint(0, CLASSES, (7,))
    here = clipped_sum(model, records)(features, labels, 0.3)
    model.to(DEVICE)
    assert device_of(model) == DEVICE
    with on(DEVICE):
        way = clipped_sum(model, records)
        assert way.method == method, way.says
        moved = pytree.tree_map(lambda one: one.to(DEVICE), features)
        there = way.way(moved, labels.to(DEVICE), 0.3)
    assert there.within == here.within
    for a, b in zip(there.sums, here.sums, strict=True):
        assert a.device == DEVICE
        torch.testing.assert_close(a.cpu(), b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_copies_of_a_record_are_clipped_as_on_the_processor(name: str) -> None:
    torch.manual_seed(3)
    make, records, method = FAMILIES[name]
    model = make()
    features, labels = records(5), torch.randint(0, CLASSES, (5,))
    copies = torch.stack([features, features.flip(1)], 1)
    here = clipped_sum(model, features.shape[1], copies=2)(copies, labels, 0.3)
    model.to(DEVICE)
    with on(DEVICE):
        way = clipped_sum(model, features.shape[1], copies=2)
        assert way.method == method, way.says
        there = way.way(copies.to(DEVICE), labels.to(DEVICE), 0.3)
    for a, b in zip(there.sums, here.sums, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-5, atol=1e-6)


def test_noise_is_that_of_the_same_generator() -> None:
    here, there = torch.ones(40_000), torch.ones(40_000).to(DEVICE)
    for one in (here, there):
        add_gaussian(one, 2.0, np.random.default_rng(1))
    torch.testing.assert_close(there.cpu(), here, rtol=1e-6, atol=1e-6)
    assert float(here.std()) == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize(
    "settings",
    [
        (NO_NOISE,),
        (NO_NOISE, "training.optimizer=adam"),
        (SEEDED, "training.proximal=0.1"),
        (SEEDED, "training.control_variates=true"),
        (SEEDED, *SHARED),
        (SEEDED, "data.target.focal=2"),
    ],
)
def test_silos_on_different_devices_end_with_the_same_model(
    settings: Sequence[str], make_job: MakeJob
) -> None:
    _compare(Consortium(make_job(*settings)), Consortium(make_job(*settings, ON_GPU), "run-2"))


@pytest.mark.parametrize("settings", [(NO_NOISE,), (SEEDED, *SHARED)])
def test_so_do_silos_with_tasks_of_their_own(settings: Sequence[str], with_tasks: MakeJob) -> None:
    _compare(Consortium(with_tasks(*settings)), Consortium(with_tasks(*settings, ON_GPU), "run-2"))


def _compare(here: Consortium, there: Consortium) -> None:
    models = {name: silo._own.model for name, silo in there.silos.items()}
    assert [device_of(model) for model in models.values()] == [DEVICE, CPU, CPU]
    for number in (1, 2, 3):
        for one in (here, there):  # after the evaluation, a round's attempt is its second
            one.round(number, attempt=1 if number == 1 else 2)
        a, b = here.evaluate(number + 1), there.evaluate(number + 1)
        assert a.held_out and b.held_out and a.held_out.records == b.held_out.records
    close(here, there)
    vectors = there.models()
    assert all(np.array_equal(vectors[0], other) for other in vectors)
