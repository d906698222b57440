"""Plans and epsilon tables are computed once, and nothing that is wrong comes out of the cache."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blindsum.platform.job.paths import home_folder
from blindsum.platform.privacy import accounting
from blindsum.platform.privacy.accounting import calibrate, spent_epsilon
from blindsum.platform.privacy.plan import Accountant, PrivacyPlan
from blindsum.platform.privacy.plan_cache import FOLDER, cached

SETTING = (2.0, 1e-5, 0.1, 40)  # epsilon, delta, sampling rate, steps


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLINDSUM_HOME", str(tmp_path / "another"))
    spent_epsilon.cache_clear()


def files() -> list[Path]:
    return sorted((home_folder() / FOLDER).glob("*"))


def planned(sigma: float = 1.0) -> PrivacyPlan:
    return PrivacyPlan(
        epsilon=3.0,
        delta=1e-5,
        sampling_rate=0.1,
        noise_multiplier=sigma,
        clip_norm=1.0,
        steps_per_round=2,
        rounds=6,
        rounds_within_budget=6,
        epsilon_planned=spent_epsilon(sigma, 0.1, 12, 1e-5),
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts calibrations that were really made."""
    made: list[int] = []
    real = accounting._search
    monkeypatch.setattr(accounting, "_search", lambda *given: made.append(1) or real(*given))
    return made


def test_a_multiplier_is_calibrated_once_for_all_processes(calls: list[int]) -> None:
    first = calibrate(*SETTING)
    assert calibrate(*SETTING) == first and len(calls) == 1
    (kept,) = files()
    assert kept.stat().st_mode & 0o777 == 0o600 and kept.parent.stat().st_mode & 0o777 == 0o700
    calibrate(*SETTING[:3], 41)
    assert len(calls) == 2 and len(files()) == 2


def test_threads_that_need_the_same_multiplier_wait_for_the_first(calls: list[int]) -> None:
    """Silos that are threads, or a sweep's runs, would each take seconds for it."""
    with ThreadPoolExecutor(4) as pool:
        found = [one.result() for one in [pool.submit(calibrate, *SETTING) for _ in range(4)]]
    assert len(set(found)) == 1 and len(calls) == 1


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def _too_little_noise(path: Path) -> None:
    from blindsum.platform.privacy.plan_cache import _write

    _write(path, [0.5, 1.9])  # well formed, with its digest: half of what the budget needs


def _writable_by_all(path: Path) -> None:
    path.chmod(0o666)


@pytest.mark.parametrize(
    "spoil",
    [
        _flipped,
        _too_little_noise,
        _writable_by_all,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: path.write_text("[" * 10_000),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
def test_a_file_that_is_wrong_is_computed_again(
    calls: list[int], spoil: Callable[[Path], object]
) -> None:
    """A multiplier below what the budget needs would be a promise broken in silence."""
    first = calibrate(*SETTING)
    spoil(files()[0])
    again = calibrate(*SETTING)
    assert again == first and len(calls) == 2
    epsilon, delta, rate, steps = SETTING
    assert spent_epsilon(again, rate, steps, delta) <= epsilon


def test_a_table_is_that_of_single_compositions() -> None:
    one, other = Accountant(planned()), Accountant(planned())
    one.precompute()
    assert len(files()) == 1
    other.precompute()
    alone = [Accountant(planned()).epsilon_after(rounds) for rounds in range(1, 7)]
    for accountant in (one, other):
        assert [accountant.epsilon_after(rounds) for rounds in range(1, 7)] == alone


@pytest.mark.parametrize(
    "wrong", [lambda t: t[:-1], lambda t: [t[1], t[0], *t[2:]], lambda t: [*t[:-1], t[-1] * 0.99]]
)
def test_a_table_of_another_length_order_or_end_is_not_used(
    wrong: Callable[[list[float]], list[float]],
) -> None:
    from blindsum.platform.privacy.plan_cache import _write

    first = Accountant(planned())
    first.precompute()
    table = [first.epsilon_after(rounds) for rounds in range(1, 7)]
    _write(files()[0], wrong(table))
    again = Accountant(planned())
    again.precompute()
    assert [again.epsilon_after(rounds) for rounds in range(1, 7)] == table


def test_a_home_that_cannot_be_written_costs_time_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BLINDSUM_HOME", str(tmp_path / "file" / "below"))
    assert cached(("x",), 1, lambda: [1.0], lambda _: True) == [1.0]


def test_infinite_values_are_never_kept() -> None:
    assert cached(("x",), 1, lambda: [float("inf")], lambda _: True) == [float("inf")]
    assert files() == []


def test_a_file_of_another_user_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    cached(("x",), 1, lambda: [1.0], lambda _: True)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert cached(("x",), 1, lambda: [2.0], lambda _: True) == [2.0]


@pytest.mark.parametrize(
    ("sigma", "rate", "steps"), [(1.0, 0.01, 1000), (0.8, 0.1, 40), (2.0, 0.2, 300), (5.0, 1.0, 10)]
)
def test_the_estimate_that_guards_kept_multipliers_is_near_the_accountant(
    sigma: float, rate: float, steps: int
) -> None:
    """Or it would let less noise pass, or have every plan computed again."""
    exact = spent_epsilon(sigma, rate, steps, 1e-5)
    assert accounting.gaussian_epsilon(sigma, rate, steps, 1e-5) == pytest.approx(exact, rel=0.25)
    assert accounting.gaussian_epsilon(sigma / 2, rate, steps, 1e-5) > accounting.MOST_ABOVE * exact


def test_a_plan_that_was_kept_needs_neither_scipy_nor_the_accountant(tmp_path: Path) -> None:
    """They are a quarter of a silo's start."""
    code = (
        "import sys; from blindsum.platform.privacy.accounting import calibrate; "
        f"calibrate(*{SETTING}); print('scipy' in sys.modules)"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        for _ in range(2)
    ]
    assert said == ["True", "False"]
