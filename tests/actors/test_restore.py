"""What silos keep to go on with, and what they refuse to go on with."""

from pathlib import Path

import numpy as np
import pytest

from blindsum.actors.messages import SiloSpec
from blindsum.actors.silo import Silo
from blindsum.platform.errors import FederationError, LedgerError
from blindsum.platform.state.checkpoint import Checkpoints
from tests.actors.test_silo import NO_NOISE, Consortium
from tests.conftest import MakeJob


def after_rounds(consortium: Consortium, rounds: int) -> Consortium:
    for number in range(1, rounds + 1):
        consortium.round(number)
    return consortium


def again(consortium: Consortium, name: str = "alder", run: str = "run-1") -> Silo:
    first = consortium.silos[name]._spec
    return Silo(
        SiloSpec(job=first.job, run=run, name=name, folder=first.folder, threads=1, resumed=True)
    )


@pytest.mark.parametrize("privacy", ["privacy.epsilon=8", NO_NOISE])
def test_a_silo_goes_back_to_its_newest_rounds(
    make_job: MakeJob, tmp_path: Path, privacy: str
) -> None:
    """Whatever noise came from is never written: only what a run without privacy draws goes on."""
    momentum = "server={optimizer: momentum, learning_rate: 0.5}"
    consortium = after_rounds(Consortium(make_job(privacy, momentum)), 3)
    before = consortium.silos["alder"]
    folder = tmp_path / "state" / "alder" / "runs" / "run-1"
    assert sorted(p.name for p in folder.iterdir()) == ["round-2.state", "round-3.state"]
    assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o600}
    kept = Checkpoints(folder).read(3)
    assert (kept.random is None) == (privacy != NO_NOISE)
    assert "private" in repr(kept)
    silo = again(consortium)
    found = silo.inspect()
    assert set(found.kept) == {0, 2, 3} and found.kept[3] == before._model.digest
    assert found.charged == (3, 1)
    assert silo.restore(3) == before._model.digest
    released = silo._models[-1].average.shared
    np.testing.assert_array_equal(released, before._model.average.shared)
    assert not np.array_equal(released, silo._model.vector)
    np.testing.assert_array_equal(silo._own.optimizer.state[0], before._own.optimizer.state[0])
    if privacy == NO_NOISE:
        assert silo._own.random.random() == before._own.random.random()
    with pytest.raises(FederationError, match="has no readable state after round 1"):
        silo.restore(1)
    silo.forget()
    assert not folder.exists()


def test_a_damaged_checkpoint_is_none(make_job: MakeJob, tmp_path: Path) -> None:
    consortium = after_rounds(Consortium(make_job()), 2)
    folder = tmp_path / "state" / "alder" / "runs" / "run-1"
    content = bytearray((folder / "round-2.state").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "round-2.state").write_bytes(content)
    (folder / "round-1.state").write_bytes(b"")
    assert set(again(consortium).inspect().kept) == {0}


def test_a_run_goes_on_with_its_own_table_and_plan_alone(
    make_job: MakeJob, tables: dict[str, Path]
) -> None:
    consortium = after_rounds(Consortium(make_job()), 1)
    other = make_job("training.rounds=4").job
    spec = SiloSpec(
        job=other,
        run="run-1",
        name="alder",
        folder=consortium.silos["alder"]._spec.folder,
        threads=1,
        resumed=True,
    )
    with pytest.raises(LedgerError, match="began on another table, or with another plan"):
        Silo(spec).inspect()
    tables["alder"].write_bytes(tables["birch"].read_bytes())
    with pytest.raises(LedgerError, match="began on another table, or with another plan"):
        again(consortium).inspect()
    # a run that never was may begin
    assert again(consortium, "birch", run="run-2").inspect().charged == (0, 0)
