"""Molecules computed in the silo's own processes: the same results, and nothing is left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from blindsum.platform.data import molecule_results, workers
from blindsum.platform.data.computing import ALONE, Computing, granted_cores
from blindsum.platform.data.molecule_results import computed
from blindsum.platform.data.molecule_work import (
    FeaturesPart,
    Fingerprints,
    FoldKeys,
    MaccsKeys,
    MoleculeWork,
    ProjectedCounts,
    ScaledDescriptors,
)
from blindsum.platform.data.reasons import in_general
from blindsum.platform.data.workers import Workers
from blindsum.platform.errors import DataError, Unexpected
from blindsum.platform.job.features_section import Descriptors, Ecfp, Maccs, Projection, Scaling

SMILES = [*(f"c1ccccc1{'C' * n}O" for n in range(40)), "no molecule", "", "C" * 2000, "[Na+].[Cl-]"]
PARTS = (
    Fingerprints(Ecfp(kind="ecfp", bits=256)),
    ScaledDescriptors(Descriptors(kind="descriptors", descriptors=["MolLogP", "BalabanJ"])),
    MaccsKeys(Maccs(kind="maccs")),
    ProjectedCounts(Projection(kind="projection", dimensions=32)),
)


def workers_left() -> list[psutil.Process]:
    """The children of this process that compute molecules: other tests have children of theirs."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any("worker_process" in part for part in child.cmdline()):
                found.append(child)
    return found


def texts(smiles: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(smiles, pa.string())])


@pytest.fixture
def side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """However quick this machine is, all but the first text go to processes."""
    monkeypatch.setattr(molecule_results, "WORTH_S", 0.0)
    monkeypatch.setattr(molecule_results, "CHUNK_S", 0.0)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.usefixtures("side_by_side")
def test_processes_give_what_one_process_gives(part: FeaturesPart) -> None:
    parts = [part, FoldKeys("scaffold")]
    told: list[float] = []
    alone = MoleculeWork(tuple(parts)).compute()(SMILES)
    found = computed(parts, texts(SMILES), Computing(cores=2, told=told.append))
    assert found.equals(alone)
    assert told == sorted(told) and told[-1] == 1.0 and len(told) == len(SMILES)
    assert not workers_left()


def test_a_small_table_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.subprocess, "Popen", None)
    parts = [Fingerprints(Ecfp(kind="ecfp")), FoldKeys("scaffold")]
    assert computed(parts, texts(SMILES), Computing(cores=8)).num_rows == len(SMILES)
    assert computed(parts, texts([]), ALONE).num_rows == 0


def test_settings_cross_to_a_process_unchanged() -> None:
    for part in PARTS:
        work = MoleculeWork((part, FoldKeys("scaffold"), FoldKeys("spelling")))
        assert MoleculeWork.from_json(work.to_json()) == work


def test_a_process_that_dies_is_said_and_quotes_nothing() -> None:
    with Workers(MoleculeWork(PARTS[:1]), 2) as two:
        for process in two._processes:
            process.kill()
        with pytest.raises(DataError, match="a process that computes molecules died"):
            list(two.tables([["CCO"]]))
    assert not workers_left()


def test_a_chunk_that_cannot_be_sent_ends_the_work_and_quotes_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Whatever a thread ends with: nobody waits for it for ever, and its kind is told."""
    chunks: list[Any] = [["CCO"], [b"CC(=O)O", 5]]
    with Workers(MoleculeWork(PARTS[:1]), 1) as one, pytest.raises(Unexpected) as caught:
        list(one.tables(chunks))
    assert "pyarrow.lib.ArrowTypeError at serve" in str(caught.value)
    assert "CC(=O)O" not in str(caught.value) + "".join(capfd.readouterr())


def test_a_process_that_cannot_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.sys, "executable", "/nowhere/python")
    with pytest.raises(DataError, match="cannot be started: No such file"):
        Workers(MoleculeWork(PARTS[:1]), 1).__enter__()


BUSY = """
import sys
from blindsum.platform.data.molecule_work import MoleculeWork, ScaledDescriptors
from blindsum.platform.data.workers import Workers
from blindsum.platform.job.features_section import Descriptors, Scaling
section = Descriptors(kind="descriptors", descriptors={"Ipc": Scaling(), "BertzCT": Scaling()})
with Workers(MoleculeWork((ScaledDescriptors(section),)), 2) as two:
    print(*(process.pid for process in two._processes), flush=True)
    small, large = ["CCO"], ["C" * 290 + "O" * n for n in range(9)] * 1000
    for number, _ in two.tables([small, small, large, large]):
        print(number, flush=True)
"""


def test_a_silo_that_is_killed_leaves_no_process() -> None:
    """Even one that computes for hours, and so does not notice that its input has ended."""
    pause = threading.Event()
    silo = subprocess.Popen(
        [sys.executable, "-c", BUSY],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert silo.stdout
    children = [psutil.Process(int(pid)) for pid in silo.stdout.readline().split()]
    assert len(children) == 2
    assert {silo.stdout.readline(), silo.stdout.readline()} == {b"0\n", b"1\n"}
    begun = [child.cpu_times().user for child in children]
    end = time.monotonic() + 60
    while not all(c.cpu_times().user > t + 0.3 for c, t in zip(children, begun, strict=True)):
        assert time.monotonic() < end, "the large chunks never arrived"
        pause.wait(0.02)
    silo.send_signal(signal.SIGKILL)
    silo.wait(20)
    _, alive = psutil.wait_procs(children, timeout=20)
    for child in alive:
        child.kill()
    assert alive == []


def test_the_cores_are_those_that_are_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5})
    for quota, cores in (("max 100000", 6), ("250000 100000", 2), ("50000 100000", 1)):
        monkeypatch.setattr(Path, "read_text", lambda *_, said=quota: said)
        assert granted_cores() == cores

    def missing(*_: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert granted_cores() == 6


def test_a_salt_s_undefined_descriptors_are_named_for_the_owner_and_in_general_for_others() -> None:
    """It was reported as a molecule that RDKit cannot read."""
    names = ["MolLogP", "MaxPartialCharge", "MinPartialCharge"]
    scalings = {name: Scaling() for name in names}
    section = Descriptors(kind="descriptors", descriptors=scalings)
    found = computed(
        [ScaledDescriptors(section)], texts(["Cl[Pt](Cl)(N)N", "CCO", "no molecule"]), ALONE
    )
    reasons = found["reason"].to_pylist()
    assert reasons[1:] == [None, "RDKit cannot read it"]
    assert reasons[0] == "undefined descriptors: MaxPartialCharge, MinPartialCharge"
    assert in_general(reasons[:1]) == "whose descriptors are undefined"
    assert in_general(reasons[2:]) == "that RDKit cannot read"
    both = "that RDKit cannot read or whose descriptors are undefined"
    assert in_general([reasons[0], reasons[2]]) == both


def test_results_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [Fingerprints(Ecfp(kind="ecfp")), FoldKeys("scaffold")]
    whole = MoleculeWork(tuple(parts)).compute()(SMILES)
    for longest in (1, 7, 2000):
        monkeypatch.setattr(molecule_results, "MOST_CHUNK", longest)
        assert computed(parts, texts(SMILES), ALONE).equals(whole)
