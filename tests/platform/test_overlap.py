"""What silos have in common: identifiers, the sketch, the look-up, and what protects them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.stats import norm

from blindsum.platform.data.concerns import shared_identifiers
from blindsum.platform.data.identifiers import Identifiers, identified_by, load_identifiers
from blindsum.platform.data.record_digests import Digests
from blindsum.platform.data.records import Fold
from blindsum.platform.errors import FederationError
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.accounting import spent_epsilon
from blindsum.platform.privacy.overlapping import epsilon_in, protection_in_two
from blindsum.platform.privacy.plan import plan
from blindsum.platform.training.models import get_parameters, model_of
from blindsum.platform.training.statistics.describing import Describer, Describing
from blindsum.platform.training.statistics.figures import Figures, figures_of
from blindsum.platform.training.statistics.overlap import Hashed
from blindsum.platform.training.statistics.parts import Found
from blindsum.platform.training.sums import SumsOptimizer
from tests.conftest import MakeJob, job_content

KEY = bytes(range(32))
SHARED = {"noise": "shared", "epsilon": 4, "delta": 1e-5}
MOST = 3000


def job(tmp_path: Path, privacy: dict[str, Any] | None = None, **overlap: Any) -> Job:
    content = job_content(tmp_path)
    content["data"] |= {
        "features": {"kind": "columns", "columns": {"x": {"scale": 1e3}}},
        "target": {"column": "ill", "classes": ["no", "yes"]},
    }
    content["data"].pop("tasks", None)
    content["model"] = {
        "kind": "statistics",
        "bounds": {"x": {"low": 0.0, "high": 1.0}},
        "correlations": False,
        "differences": False,
        "overlap": overlap,
    }
    content["training"] = {
        "rounds": 3,
        "local_steps": 1,
        "sampling_rate": 1.0,
        "expected_batch_size": MOST,
        "learning_rate": 1.0,
    }
    content["privacy"] = SHARED if privacy is None else privacy
    content["encryption"] = {"bits": 24}
    return Job.model_validate(content)


def digests(numbers: np.ndarray) -> Digests:
    return np.ascontiguousarray(np.stack([numbers, numbers], 1).astype("<i8")).view("V16")[:, 0]


def three(count: int, common: int, random: np.random.Generator) -> list[Digests]:
    """Three silos' identifiers, of which some stand in all silos."""
    shared = random.choice(2**40, common, replace=False)
    return [
        digests(np.concatenate([shared, random.integers(2**40, 2**50, count - common)]))
        for _ in range(3)
    ]


def describers(one: Job, known: list[Digests], key: bytes = KEY) -> list[Describer]:
    made = []
    for i, (name, identifiers) in enumerate(zip(one.roster, known, strict=True)):
        describing = Describing(one, one.model)  # type: ignore[arg-type]
        describing.secret = key
        fold = Fold(np.zeros((10, 1), np.float32), np.zeros(10, np.int64))
        data: Any = SimpleNamespace(train=fold, test=fold, identifiers=identifiers)
        made.append(describing.trainer(data, plan(one, name), np.random.default_rng(i)))
    return made


def estimated(one: Job, known: list[Digests], random: np.random.Generator) -> Figures:
    silos = describers(one, known)
    vector = get_parameters(model_of(one))
    optimizers = [SumsOptimizer(silo._describing, one) for silo in silos]
    share = getattr(plan(one, one.roster[0]), "share", None) or 0.0
    for round in (1, 2, 3):
        updates = [silo.train(vector, 1.0, round) for silo in silos]
        total = sum(update.values for update in updates)
        total = total + random.normal(0, share * np.sqrt(3), total.size)
        mean = total * updates[0].unit / 3
        (vector, *_) = [optimizer.apply(vector, mean, round, 3) for optimizer in optimizers]
    return figures_of(silos[0]._describing, vector)


def test_intervals_cover_the_pairs_of_silos_that_share_an_identifier(tmp_path: Path) -> None:
    one, random, pairs, counts = job(tmp_path), np.random.default_rng(0), [], []
    runs, common = 16, 500
    for _ in range(runs):
        found = estimated(one, three(2000, common, random), random).overlap
        assert found is not None
        pairs.append((found.pairs.low, found.pairs.value, found.pairs.high))
        counts.append((found.identifiers.low, found.identifiers.high))
    low, value, high = np.array(pairs).T
    assert np.mean((low <= 3 * common) & (3 * common <= high)) >= 13 / 16
    assert np.mean([a <= 6000 <= b for a, b in counts]) >= 13 / 16
    error = np.std(value) / np.sqrt(runs)
    assert abs(value.mean() - 3 * common) < 4 * error + 0.05 * 3 * common  # three silos have each
    assert np.std(value) < 0.25 * 3 * common, "the noise leaves something to be seen"
    none = [estimated(one, three(2000, 0, random), random).overlap for _ in range(4)]
    assert sum(found is not None and found.pairs.low > 0 for found in none) <= 1


def test_silos_that_hash_under_different_keys_find_nothing_in_common(tmp_path: Path) -> None:
    """What is shared is found through the key alone: without it identifiers are noise."""
    one, random = job(tmp_path), np.random.default_rng(0)
    describing = Describing(one, one.model)  # type: ignore[arg-type]
    sketch = describing.rounds[0][-1]
    identifiers, found = three(2000, 2000, random)[0], Found({}, {})

    def of(key: bytes) -> np.ndarray:
        return sketch.collect_identifiers(Hashed.of(identifiers, key), found)  # type: ignore[attr-defined]

    norm_of = float(of(KEY) @ of(KEY))
    assert norm_of == pytest.approx(2000, rel=0.3)
    assert abs(float(of(KEY) @ of(bytes(32)))) < 0.2 * norm_of


def test_a_record_moves_no_round_s_sums_by_more_than_the_clip_norm(tmp_path: Path) -> None:
    """Whatever the sketch's total holds where its identifier lies."""
    one, random = job(tmp_path), np.random.default_rng(0)
    known = three(300, 0, random)
    more = [np.append(known[0], digests(np.array([7]))), *known[1:]]
    silos = [describers(one, each)[0] for each in (known, more)]
    for height in (0.0, 3.0, 1e6):
        table = np.full(2 * silos[0]._describing.size, height, np.float32)
        for silo in silos:
            silo._describing.state = (np.frombuffer(KEY, np.uint8).astype(np.float64),)
        for round in (1, 2):
            without, with_it = (silo.sums(table, 1.0, round)[0] for silo in silos)
            assert 0 < np.linalg.norm(with_it - without) <= 1 + 1e-9, (height, round)


def test_an_identifier_counts_once_in_a_silo_however_many_records_have_it(tmp_path: Path) -> None:
    one, random = job(tmp_path), np.random.default_rng(0)
    known = three(50, 5, random)
    twice = [np.concatenate([known[0], known[0]]), *known[1:]]
    table = np.zeros(2 * describers(one, known)[0]._describing.size, np.float32)
    first, second = (describers(one, each)[0].sums(table, 1.0, 1)[0] for each in (known, twice))
    np.testing.assert_array_equal(first, second)


@given(st.floats(0, 9), st.floats(0.3, 20))
@settings(max_examples=25, deadline=None)
def test_what_an_identifier_finds_on_average_is_the_integral(others: float, noise: float) -> None:
    from blindsum.platform.training.statistics.overlap import Lookup

    lookup = Lookup.__new__(Lookup)
    lookup._sketch = SimpleNamespace(noise=noise)  # type: ignore[assignment]

    def cut(x: float) -> float:
        return float(np.clip(x, -lookup.norm, lookup.norm))

    def mean(of: Any) -> float:
        ends = [(sign * lookup.norm - others) / noise for sign in (-1, 1)]
        return float(
            integrate.quad(lambda x: of(x) * norm.pdf(x), -9, 9, points=ends, limit=200)[0]
        )

    assert lookup._finds(others, noise) == pytest.approx(
        mean(lambda x: cut(others + noise * x)), abs=1e-6
    )
    others = 0.0
    assert lookup._square(noise) == pytest.approx(mean(lambda x: cut(noise * x) ** 2), rel=1e-5)


def test_the_look_up_uses_the_key_of_the_sketch_and_no_later_one(tmp_path: Path) -> None:
    one, random = job(tmp_path), np.random.default_rng(1)
    silo = describers(one, three(200, 20, random))[0]
    describing, table = silo._describing, np.zeros(2 * silo._describing.size, np.float32)
    with pytest.raises(FederationError, match="no common key"):
        silo.sums(table, 1.0, 2)  # nothing was sketched
    describing.moved_on(table, np.zeros(describing.values(1)), 1)
    table = random.normal(0, 50, table.size).astype(np.float32)
    before = silo.sums(table, 1.0, 2)[0]
    describing.secret = bytes(32)[:-1] + b"\1"  # the silos held another ceremony
    np.testing.assert_array_equal(before, silo.sums(table, 1.0, 2)[0])
    describing.secret = None
    with pytest.raises(FederationError, match="no common key"):
        silo.sums(table, 1.0, 1)


def test_overlap_is_refused_without_privacy_and_where_nothing_identifies(tmp_path: Path) -> None:
    for privacy, overlap, said in (
        ({"noise": "none"}, {}, "overlap needs differential privacy"),
        (SHARED, {"by": "molecule"}, "overlap.by molecule needs features of molecules"),
    ):
        with pytest.raises(ValueError, match=said):
            job(tmp_path, privacy, **overlap)
    with pytest.raises(ValueError, match=r"overlap.by key needs data.folds.kind hash"):
        content = job(tmp_path).model_dump(mode="json", exclude_none=True)
        content["data"]["folds"] = {"kind": "random", "salt": "t"}
        content["model"]["overlap"] = {"by": "key"}
        Job.model_validate(content)


def test_molecules_are_known_by_canonical_smiles(tmp_path: Path) -> None:
    def read(smiles: list[str]) -> Identifiers:
        path = tmp_path / "m.parquet"
        pq.write_table(
            pa.table({"smiles": smiles, "y": pa.array([0, 1] * (len(smiles) // 2))}), path
        )
        contract = job(tmp_path).data.model_dump(mode="json", exclude_none=True)
        contract |= {
            "features": {"kind": "ecfp", "bits": 64},
            "target": {"column": "y", "classes": [0, 1]},
            "folds": {"kind": "scaffold", "salt": "t"},
        }
        from blindsum.platform.job.data_section import DataSection

        section = DataSection.model_validate(contract)
        assert identified_by(section) == "molecule"
        return load_identifiers(path, section, tmp_path / "rejects.csv", "molecule")

    one, other = read(["CCO", "c1ccccc1", "CCN", "CC"]), read(["OCC", "C1=CC=CC=C1", "CCCN", "C"])
    common = set(one.digests.tolist()) & set(other.digests.tolist())
    assert len(common) == 2 and "private" in repr(one)


def test_fold_keys_and_records_are_known_whatever_else_differs(
    make_job: MakeJob, tables: dict[str, Path], tmp_path: Path
) -> None:
    data = make_job().job.data
    assert identified_by(data) == "key"
    by_key = load_identifiers(tables["alder"], data, tmp_path / "r.csv", "key")
    by_record = load_identifiers(tables["alder"], data, tmp_path / "r.csv", "record")
    assert len(set(by_key.digests.tolist())) == 75 and len(by_key.digests) == 150
    assert len(set(by_record.digests.tolist())) == 150
    table = pq.read_table(tables["alder"])
    changed = table.set_column(0, "mean_radius", pa.array(np.arange(150.0)))
    pq.write_table(changed, tables["birch"])
    other = load_identifiers(tables["birch"], data, tmp_path / "r.csv", "key")
    np.testing.assert_array_equal(by_key.digests, other.digests)
    np.testing.assert_array_equal(by_key.held_out, other.held_out)


@pytest.mark.parametrize("noise", ["shared", "local"])
def test_who_stands_in_two_silos_has_the_epsilon_of_group_privacy(
    tmp_path: Path, noise: str
) -> None:
    one = job(tmp_path, {"noise": noise, "epsilon": 1, "delta": 1e-5})
    own = plan(one, "alder")
    assert own is not None
    steps, sigma = own.rounds, own.noise_multiplier
    factor = 2 if noise == "shared" else np.sqrt(2)  # of mu, without sampling
    exact = spent_epsilon(sigma / factor, 1.0, steps, own.delta)
    assert epsilon_in(own, 2) == pytest.approx(exact, rel=0.01)
    assert epsilon_in(own, 2) > own.epsilon_planned * (1.3 if noise == "local" else 2)
    assert epsilon_in(own, 1) == pytest.approx(own.epsilon_planned, rel=0.01)
    assert f"epsilon {epsilon_in(own, 2):.3g}" in protection_in_two(one)


def test_nothing_is_said_of_protection_without_privacy(make_job: MakeJob) -> None:
    assert protection_in_two(make_job("privacy={noise: none}").job) == ""


def test_what_one_silo_trains_on_and_another_holds_out_is_said_with_its_mend() -> None:
    def of(numbers: range, held_out: set[int]) -> Identifiers:
        return Identifiers(
            digests(np.array(numbers)), np.array([one in held_out for one in numbers])
        )

    silos = {
        "a": of(range(100), {1, 2}),
        "b": of(range(90, 190), {91, 95}),
        "c": of(range(500, 600), set()),
    }
    (said,) = shared_identifiers(silos, "molecule", "PROTECTED").values()
    assert said.startswith("a and b have 10 molecules in common: PROTECTED; 2 of them")
    assert "data.folds.kind scaffold, cluster or random keeps a molecule in one fold" in said
    same = {"a": of(range(100), {95}), "b": of(range(90, 190), {95})}
    (said,) = shared_identifiers(same, "key").values()
    assert said == "a and b have 10 fold keys in common"
