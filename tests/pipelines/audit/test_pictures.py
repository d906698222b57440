"""Pictures come out of updates without protection, and a report shows none of a silo."""

import numpy as np
import pytest

from blindsum.pipelines.audit.attacks.drawn import attack_drawn
from blindsum.pipelines.audit.attacks.imprint import InFront
from blindsum.pipelines.audit.attacks.layers import Layers
from blindsum.pipelines.audit.attacks.reconstruction import Example, Reconstruction
from blindsum.pipelines.audit.outcome import QUICK, Audit
from blindsum.pipelines.audit.pictures import KINDS, Pictures, pictures_of
from blindsum.pipelines.audit.report.page import as_page
from blindsum.pipelines.audit.report.records import as_private_page
from blindsum.pipelines.audit.victim import Victim
from blindsum.platform.data.records import Fold
from blindsum.platform.data.table import SiloData
from blindsum.platform.job.images_section import Images
from tests.conftest import MakeJob
from tests.plans import plan_by_hand

GREY = (
    "data.features={kind: images, height: 12, width: 10, channels: 1, center: [0.45], scale: [0.2]}"
)
CNN = "model={kind: cnn, channels: [8], activation: tanh}"
COLOURS = Pictures(
    Images(kind="images", height=9, width=11, channels=3, center=[0.4, 0.5, 0.6], scale=[0.2])
)


@pytest.fixture
def victim(make_job: MakeJob) -> Victim:
    """A silo of pictures that look like no drawn ones."""
    job = make_job(GREY, CNN, "training.local_steps=1").job
    pictures, random = pictures_of(job), np.random.default_rng(0)
    assert pictures
    folds = [
        Fold(
            random.uniform(pictures.low, pictures.high, (n, 120)).astype(np.float32),
            random.integers(0, 2, n),
        )
        for n in (40, 200)
    ]
    return Victim(job, "birch", SiloData(*folds, "", 0), plan_by_hand(noise_multiplier=1.0))


def test_a_layer_in_front_of_convolutions_gives_a_batch(victim: Victim) -> None:
    tried = Reconstruction(victim, 1, 1.0, 20)
    by = {e.defence: e for e in tried._imprint((16,))}
    named = {defence: e.figures["identified"] for defence, e in by.items()}
    assert named["none"].value > 0.8 and named["none"].above_floor
    assert (
        by["none"].figures["PSNR (dB)"].value > 60 and "in front of the model" in by["none"].setting
    )
    for defence in ("dp", "encrypted", "both"):
        assert not named[defence].above_floor, "noise, or masks, hide the records"
        assert by[defence].figures["PSNR (dB)"].value < 20


def test_a_model_works_behind_such_a_layer(victim: Victim) -> None:
    model, x = victim.model("fresh"), victim.records(range(8))[0]
    public = victim.records(range(40))[0]
    front = InFront(model, 64, public)
    assert Layers.of(front).first is front.first and Layers.of(front).relu
    assert (front(x) - model(x)).abs().max() < 0.5 * model(x).std() + 0.5
    assert Layers.of(model).first is None


def test_candidates_that_fit_any_record_name_none(victim: Victim) -> None:
    """An attack with many candidates hits by chance: that is its floor."""
    tried = Reconstruction(victim, 1, 1.0, 20)
    rows = np.arange(8)
    every = victim.data.train.features.astype(np.float64)
    random = np.random.default_rng(0)
    assert tried._identified_by_chance(every, rows, random) == 1.0
    assert tried._identified_by_chance(every[:8], rows, random) == 0.0
    figures = tried._figures(every[:8], every[:8], every[8:16], chance=0.7)
    assert figures["identified"].floor == 0.7


def test_matching_gives_a_picture_through_convolutions(victim: Victim) -> None:
    drawn = {one.attack: one for one in attack_drawn(victim, 120)}
    for attack in ("matching", "imprint"):
        near = {d: f.value for d, f in drawn[attack].figures.items() if f}
        floor = drawn[attack].figures["none"].floor  # type: ignore[union-attr]
        assert floor and near["none"] > floor + 5
        assert max(near["dp"], near["encrypted"], near["both"]) < floor + 2
        assert drawn[attack].true.shape[1:] == (1, 12, 10)


def test_what_a_report_shows_was_drawn(victim: Victim) -> None:
    """The silo's own pictures are noise all over; drawn ones are smooth but for a shape's edge."""
    for one in attack_drawn(victim, 2):
        steps = np.abs(np.diff(one.true, axis=-1))
        assert np.median(steps) < 0.05 and one.true.min() >= 0.0
    pixels = pictures_of(victim.job).pixels(victim.data.train.features)  # type: ignore[union-attr]
    assert np.median(np.abs(np.diff(pixels, axis=-1))) > 0.2


def test_only_the_silo_s_page_has_its_pictures(victim: Victim) -> None:
    found = Audit(victim.job, "birch", QUICK, victim.plan)
    rows, true = [0, 1], victim.data.train.features[:2].astype(np.float64)
    found.examples.append(Example("x", true, true, true, (rows, rows, rows)))
    assert as_private_page(found).count("<img") == 1
    assert "<img" not in as_page(found, "run")
    found.drawn = attack_drawn(victim, 2)
    page = as_page(found, "run")
    assert page.count("<img") == 2 and "show no record of any silo" in page
    assert "recovered" not in str(found.as_dict())


def test_pixels_are_scaled_and_back() -> None:
    drawn = COLOURS.drawn(2 * len(KINDS))
    pixels = COLOURS.pixels(drawn.astype(np.float64))
    assert pixels.shape == (10, 3, 9, 11) and pixels.min() >= 0 and pixels.max() <= 1
    assert len(np.unique(pixels.reshape(10, -1).round(3), axis=0)) == 10
    assert (COLOURS.low, COLOURS.high) == (pytest.approx(-3.0), pytest.approx(3.0))
    back = (pixels - np.array([0.4, 0.5, 0.6])[:, None, None]) / 0.2
    assert np.allclose(back.reshape(10, -1), drawn, atol=1e-5)
