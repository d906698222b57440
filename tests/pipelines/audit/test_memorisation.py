"""A language model gives its training molecules away, and with privacy it does not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from blindsum.pipelines.audit.attacks import memorisation
from blindsum.pipelines.audit.attacks.memorisation import (
    KIND,
    LENGTH,
    LETTERS,
    PAST,
    RATE,
    LanguageModel,
    Reading,
    _own_plan,
    _text,
    encoded,
    memorised,
    of_text,
)
from blindsum.platform.job.privacy_section import LocalNoise
from blindsum.platform.privacy.accounting import spent_epsilon
from blindsum.platform.privacy.plan import plan
from tests.conftest import MakeJob

READING = Reading(steps=100, samples=500)


def chains(count: int) -> list[str]:
    """Made-up molecules: chains of random atoms, which none of them tells of another."""
    random = np.random.default_rng(3)
    return ["".join(random.choice(list("CNOS"), 7)) for _ in range(count)]


def test_training_molecules_come_out_without_privacy_and_not_with_it(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job().job
    bare = memorised(chains(200), job, None, Reading(steps=300, samples=1500))
    private = LocalNoise(noise="local", epsilon=1.0, delta=1e-4)
    own = plan(job.model_copy(update={"privacy": private}), "birch")
    kept = memorised(chains(100), job, own, READING)
    assert bare and kept
    drawn, exposed = bare.figures.values()
    assert drawn.value > 0.1 and drawn.above_floor
    assert exposed.value == pytest.approx(np.log2(KIND - 16 + 1), abs=0.5) and exposed.above_floor
    drawn, exposed = kept.figures.values()
    assert not drawn.above_floor and exposed.value < 4
    # The noise does that, not the clipping.
    weak = replace(_own_plan(own, READING.steps, 3), noise_multiplier=1e-3)  # type: ignore[arg-type]
    monkeypatch.setattr(memorisation, "_own_plan", lambda *_: weak)
    again = memorised(chains(100), job, own, READING)
    assert again and again.figures["exposure (bits)"].value > 8
    assert memorised(chains(90), job, None, READING) is None


@pytest.mark.parametrize("noise", ["local", "shared"])
def test_the_language_model_keeps_the_plan_s_epsilon(make_job: MakeJob, noise: str) -> None:
    """Local: of every silo by itself. Shared: of the silos' noise together."""
    job = make_job(
        f"privacy={{noise: {noise}, epsilon: 2, delta: 1e-4}}", "training.local_steps=1"
    ).job
    planned = plan(job, "birch")
    assert planned
    own = _own_plan(planned, 100, silos=3)
    together = own.update_noise * (np.sqrt(3) if noise == "shared" else 1.0)
    assert spent_epsilon(together, RATE, 100, 1e-4) == pytest.approx(2.0, rel=0.01)
    assert (own.share, own.delta, own.clip_norm) == (None, 1e-4, planned.clip_norm)


def test_a_molecule_in_two_spellings_is_one(make_job: MakeJob) -> None:
    """Else it could be in both halves, and hide what was memorised."""
    spelt = [t for text in chains(99) for t in (text, text[::-1])]
    assert memorised(spelt, make_job().job, None, READING) is None


def test_a_token_is_told_by_those_before_it_alone() -> None:
    model = LanguageModel()
    tokens = torch.randint(1, len(LETTERS), (1, LENGTH)).float()
    changed = tokens.clone()
    changed[0, 40] = 0
    with torch.no_grad():
        moved = (model(tokens) - model(changed)).abs().sum(1)[0] > 1e-6
    seen = moved.nonzero().flatten()
    # What is drawn from the last `sight` tokens must be what the whole text gives.
    assert seen.min() == 41 and seen.max() < 40 + model.sight
    with torch.no_grad():
        cut = model(tokens[:, 50 - model.sight : 51])[..., -1]
        assert torch.allclose(cut, model(tokens)[..., 50], atol=1e-5)


def test_texts_go_to_tokens_and_back_and_cost_nothing_after_their_end() -> None:
    texts = ["CCO", "c1ccccc1[N+](=O)[O-]", ""]
    fold = encoded(texts)
    assert [_text(row) for row in np.where(fold.labels == PAST, 0, fold.labels)] == texts
    outputs = torch.zeros(3, len(LETTERS) + 1, LENGTH)
    losses = of_text(outputs, torch.from_numpy(fold.labels)) / np.log(len(LETTERS) + 1)
    assert losses.tolist() == pytest.approx([4, 21, 1])
