"""Code that a driver sends along, where a silo's owner has installed his own."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from blindsum.actors.messages import SiloSpec
from blindsum.actors.silo import Silo
from blindsum.platform.errors import CannotTakePart, ConsentError
from blindsum.platform.state.approved_code import import_approved, imported_from
from tests.adversary.owners import Machine
from tests.conftest import MakeJob

SHIPPED = "/tmp/ray/session_x/runtime_resources/working_dir_files/_ray_pkg_1"


def inspected(make_job: MakeJob, machine: Machine) -> None:
    job_file = make_job("silos.alder.data=trial", "silos.alder.state=null")
    machine.write(approved_jobs_only=False)
    Silo(
        SiloSpec(job=job_file.job, run="run", name="alder", folder=str(job_file.folder), threads=1)
    ).inspect()


@pytest.fixture
def machine(tables: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, ["alder"], {"trial": tables["alder"]}, monkeypatch)


def test_a_silo_runs_its_own_installation(
    make_job: MakeJob, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = ModuleType("yaml_of_the_driver")
    planted.__file__ = f"{SHIPPED}/yaml_of_the_driver.py"
    monkeypatch.setitem(sys.modules, planted.__name__, planted)
    with pytest.raises(CannotTakePart):
        inspected(make_job, machine)
    logged = b"".join(path.read_bytes() for path in machine.state.glob("audit.sqlite*"))
    assert b"yaml_of_the_driver" in logged


def test_what_came_with_a_job_is_no_place_to_import_from(
    make_job: MakeJob, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [SHIPPED, *sys.path])
    inspected(make_job, machine)
    assert SHIPPED not in sys.path


@pytest.mark.usefixtures("own_imports")
def test_an_installed_factory_is_approved_with_its_whole_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line that was changed may stand in a file that the factory imports."""
    package = tmp_path / "site-packages" / "nets_of_ours"
    (package / "inner").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "inner/__init__.py": "",
        "inner/make.py": "from nets_of_ours import core\n",
        "core.py": "layers = 2\n",
    }.items():
        (package / name).write_text(text)
    monkeypatch.setattr(sys, "path", [*sys.path, str(package.parent)])
    module = "nets_of_ours.inner.make"
    code = imported_from(tmp_path / "job", lambda: importlib.import_module(module), [module])
    assert list(code) == [f"installed:{module}"]
    import_approved(tmp_path / "state", "1", code)
    (package / "core.py").write_text("layers = 3\n")
    with pytest.raises(ConsentError, match="is not the code that this silo's owner approved"):
        import_approved(tmp_path / "state", "1", code)
