"""What sums of trees reveal: records without noise, and nothing with it. The plan is kept."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine

from blindsum.actors.prepared import PreparedSilo
from blindsum.pipelines.audit import command, membership_attack
from blindsum.pipelines.audit.attacks import canaries, leaves, membership, shadows
from blindsum.pipelines.audit.attacks.forests import forest_section, job_of
from blindsum.pipelines.audit.attacks.histograms import read_records
from blindsum.pipelines.audit.attacks.shadow_training import Recipe
from blindsum.pipelines.audit.attacks.single_records import true_records
from blindsum.pipelines.audit.attacks.tree_candidates import identify_in_trees
from blindsum.pipelines.audit.attacks.tree_reading import read_once, settings
from blindsum.pipelines.audit.attacks.tree_sums import Seen, noise_of_others, watch
from blindsum.pipelines.audit.labelling import WHOLE, labelling
from blindsum.pipelines.audit.victim import Victim
from blindsum.pipelines.statistics.derived import derived
from blindsum.platform.data.records import Fold
from blindsum.platform.data.table import SiloData
from blindsum.platform.errors import JobError
from blindsum.platform.job.schema import Job
from blindsum.platform.job.trees_section import Boosted
from blindsum.platform.privacy.plan import PrivacyPlan, plan
from blindsum.platform.training.models import get_parameters
from blindsum.platform.training.trees.boosting import UNIT, Boosting
from tests.actors.test_trees import EXACT, LOCAL, PRIVATE, SentByRound
from tests.conftest import MakeJob
from tests.pipelines.audit.test_audit import TINY
from tests.plans import plan_by_hand

DEEP = "model={kind: trees, trees: 10, max_depth: 3, split: best}"
ROUNDS = "training.rounds=30"
RANDOM = ("model={kind: trees, trees: 10, max_depth: 3}", "training.rounds=10")


def section_of(job: Job) -> Boosted:
    section = forest_section(job)
    assert section
    return section


def wine(count: int, seed: int = 0) -> Fold:
    """Records of four features and two classes, which trees do not tell apart at once."""
    data = load_wine()
    rows = np.random.default_rng(seed).permutation(len(data.target))[:count]
    x = (data.data - data.data.mean(0)) / data.data.std(0)
    features = x[rows][:, [1, 2, 3, 4]].astype(np.float32)
    return Fold(features, (data.target[rows] > 0).astype(np.int64))


def seen_by(job: Job, own: PrivacyPlan | None, count: int = 24) -> tuple[Seen, Fold]:
    fold = wine(count + 16)
    others = Fold(fold.stored[:count], fold.stored_labels[:count])
    mine = Fold(fold.stored[count:], fold.stored_labels[count:])
    changed = job_of(job, own)
    rounds = job.training.rounds
    return watch(changed, section_of(job), others, mine, own, rounds, 2), others


def test_exact_histograms_give_records_away_and_noise_hides_them(make_job: MakeJob) -> None:
    job = make_job(*EXACT, DEEP, ROUNDS).job
    for own, least, most in (
        (None, 5, 24),
        (plan_by_hand(noise_multiplier=0.0), 1, 24),  # clipping alone hides nobody
        (plan_by_hand(noise_multiplier=1.0), 0, 0),
    ):
        seen, others = seen_by(job, own)
        found, true = read_records(seen), Counter(true_records(seen, others))
        assert found <= true, "what is claimed is there"
        assert least <= found.total() <= most


def test_exact_leaves_tell_records_apart_and_noise_hides_them(make_job: MakeJob) -> None:
    job = make_job(*PRIVATE, *RANDOM).job
    for own, least, most in (
        (None, 8, 16),
        (plan_by_hand(noise_multiplier=0.0), 1, 16),
        (plan_by_hand(noise_multiplier=1.0), 0, 0),
    ):
        seen, others = seen_by(job, own, 16)
        groups, true = leaves.follow_records(seen), true_records(seen, others)
        for group in groups:
            inside = [one for one in true if group.has(one[0]) and one[2] == group.label]
            assert len(inside) == group.count
        assert least <= sum(group.count == 1 for group in groups) <= most


def test_a_sum_that_several_sets_of_records_have_tells_nothing() -> None:
    assert leaves._only([3, 5, 9], [1, 1, 2], 8) == [1, 1, 0]
    assert leaves._only([3, 5, 9], [1, 1, 2], 23) == [0, 1, 2]
    assert leaves._only([3, 5, 8], [1, 1, 1], 8) is None
    assert leaves._only([3, 5, 9], [1, 1, 2], 7) is None


@pytest.mark.parametrize("labels", ["classes", "numbers"])
def test_records_of_several_classes_and_numbers_are_read(labels: str, make_job: MakeJob) -> None:
    of = {
        "classes": "data.target={column: kind, classes: [0, 1, 2]}",
        "numbers": "data.target={column: kind, center: 1, scale: 1}",
    }
    job = make_job(*EXACT, DEEP, ROUNDS, of[labels]).job
    fold = wine(40)
    kinds = np.random.default_rng(3).integers(0, 3, 40)
    given: Any = kinds
    if labels == "numbers":
        given = np.zeros((40, 2, 1), np.float32)
        given[:, 0, 0] = kinds + fold.features[:, 0]
    first, last = (Fold(fold.stored[part], given[part]) for part in (slice(20), slice(20, 40)))
    seen = watch(job, section_of(job), first, last, None, 15, 2)
    found = read_records(seen)
    true = {bins: label for bins, _, label in true_records(seen, first)}
    if labels == "classes":
        true = {(*bins, float(k)): 1.0 for bins, k, _ in true_records(seen, first)}
        found = Counter({((*bins, float(k)), 0, 1.0): n for (bins, k, _), n in found.items()})
    assert found.total() >= 5
    for bins, _, label in found:
        assert label == pytest.approx(true[bins], abs=1e-4)


def test_the_view_is_that_of_a_participant_in_a_real_run(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through encryption, masks, aggregator and frames: alder reads records of birch and cedar."""
    job_file = make_job(
        *EXACT,
        "model={kind: trees, trees: 2, max_depth: 4, split: best, min_child_weight: 0.01}",
        "training.rounds=8",
    )
    made, totals = SentByRound(job_file), []
    change = PreparedSilo.mean_change

    def look(own: PreparedSilo, sent: Any, summed: Any) -> Any:
        found = change(own, sent, summed)
        totals.append((own, sent, np.asarray(found[:]) * 3))
        return found

    monkeypatch.setattr(PreparedSilo, "mean_change", look)
    alder = made.silos["alder"]._own
    seen = Seen(job_file.job, Boosting(job_file.job, section_of(job_file.job)), None)
    for number in range(1, 9):
        seen.forests.append(get_parameters(alder.model))
        sent = alder.trainer.train(seen.forests[-1], 1.0, number).values
        totals.clear()
        made.round(number)
        (total,) = [sums for own, _, sums in totals if own is alder]
        seen.sums.append((total - sent).reshape(seen.boosting.shape(number)))
    others = [made.silos[name]._own.data.train for name in ("birch", "cedar")]
    true = Counter(one for fold in others for one in true_records(seen, fold))
    found = read_records(seen)
    assert found <= true and found.total() >= 2


def victim_of(job: Job) -> Victim:
    fold, held_out = wine(110), wine(178)
    data = SiloData(fold, Fold(held_out.stored[110:], held_out.stored_labels[110:]), "", 0)
    own = plan(job, "alder") or plan_by_hand(noise_multiplier=1.0)
    return Victim(job, "alder", data, own)


def test_scores_count_what_was_read_and_their_floor_is_a_guess(make_job: MakeJob) -> None:
    victim = victim_of(make_job(*EXACT, DEEP, ROUNDS).job)
    section = section_of(victim.job)
    assert settings(victim) == [(2, 16), (2, 64), (3, 16), (3, 32)]
    bare = read_once(victim, section, None, 2, 16, 0).figures()
    assert bare["exact records"].above_floor and bare["exact records"].floor == 0
    assert bare["right bins"].value > (bare["right bins"].floor or 0) + 0.1
    noised = read_once(victim, section, victim.plan, 2, 64, 0).figures()
    assert noised["exact records"].value == noised["told apart"].value == 0
    assert abs(noised["right bins"].value - (noised["right bins"].floor or 0)) < 0.2


def test_a_record_is_picked_out_of_candidates_less_often_with_noise(make_job: MakeJob) -> None:
    victim = victim_of(make_job(*PRIVATE).job)
    section = section_of(victim.job)
    assert identify_in_trees(victim, section, None).value > 0.5
    assert identify_in_trees(victim, section, victim.plan).value < 0.2
    alone = plan_by_hand(noise_multiplier=3.0)
    assert noise_of_others(alone, 5) * UNIT == pytest.approx(6.0)
    assert noise_of_others(replace(alone, share=1.0), 5) * UNIT == pytest.approx(3.0)


@pytest.mark.parametrize("settings_", [PRIVATE, LOCAL])
def test_trees_keep_their_epsilon(
    settings_: tuple[str, ...], make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canaries, "CONFIDENCE", 1 - 1e-7)
    job = make_job(*settings_, "privacy.epsilon=1").job
    own = plan(job, "alder")
    assert own

    def bound(**kwargs: Any) -> float:
        return max(one.best for one in canaries.audit(job, own, 800, **kwargs).values())

    assert bound() < own.epsilon
    assert bound(noise=False) > 2 * own.epsilon, "without power it proves nothing"


def test_members_are_found_without_noise_and_not_with_it(make_job: MakeJob) -> None:
    job = make_job(*PRIVATE, *RANDOM).job
    random = np.random.default_rng(0)
    x, y = random.normal(size=(48, 4)).astype(np.float32), random.integers(0, 2, 48)
    data = SiloData(Fold(x[:24], y[:24]), Fold(x[24:], y[24:]), "", 0)
    members, read = shadows.memberships(24, 10), labelling(job)
    for own, low, high in (
        (None, 0.6, 1.0),
        (plan_by_hand(noise_multiplier=20.0), 0.0, 0.58),
    ):
        recipe = Recipe(job.training, job.server, 10, own)
        shard = shadows.Shard(job, "birch", "", "", 0, 10, 10, recipe)
        outputs = shadows._one_by_one(shard, data, data.train.labels, members)
        of_train, of_test = (shadows._finite(torch.stack(f)) for f in zip(*outputs, strict=True))
        seen = read.observe(of_train, data.train.labels, (WHOLE,))
        others = read.observe(of_test, data.test.labels, (WHOLE,))
        made = membership.Shadows(seen.statistics[0], seen.losses[0], members, others.losses[0])
        risk = membership.exposure(membership.scores(made)["lira"], members).mean()
        assert low < risk < high


def test_statistics_are_no_model_to_attack(make_job: MakeJob) -> None:
    statistics = derived(make_job("privacy={noise: none}"), None)
    with pytest.raises(JobError, match="trains no model, and an audit needs one"):
        command.run_audit(statistics, "birch", True, [], True)


@pytest.mark.filterwarnings("ignore")
def test_an_audit_of_trees_says_what_it_tried_and_what_not(
    make_job: MakeJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "QUICK", TINY)
    monkeypatch.setattr(membership_attack, "run", lambda *_: None)  # it needs a cluster
    command.run_audit(make_job(*EXACT), "birch", True, [], False)
    said = " ".join(capsys.readouterr().out.split())
    assert "participant histograms exact records" in said
    assert "they need a gradient, and trees have none" in said
    (report,) = (tmp_path / "runs").glob("*/report.html")
    page = report.read_text()
    assert "What a silo reads out of the sums" in page and "forests grown from exact sums" in page
    figures = json.loads((report.parent / "audit.json").read_text())
    attacks = {one["attack"] for one in figures["evidence"]}
    assert attacks == {"histograms", "candidates", "key recovery", "upload opened"}
    assert [one["epsilon"] for one in figures["score_by_epsilon"]] == [None, 1.0, 3.0, 8.0]
    assert (tmp_path / "state" / "birch" / "audit" / "records.html").exists()
