"""A silo joins where its owner's file cannot be written, and users without a home folder."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from blindsum.he.identity import Identity
from blindsum.infra.certificates import (
    days_left,
    keep_certificate,
    make_authority,
    make_request,
    sign_request,
)
from blindsum.infra.ray_session import _ensure_home
from blindsum.pipelines.cli.app import app
from blindsum.pipelines.consortium import silo as joining
from blindsum.pipelines.consortium.invitation import Token, written
from blindsum.pipelines.consortium.settings import open_home
from blindsum.pipelines.consortium.silo import open_silo
from blindsum.platform.errors import ClusterError
from blindsum.platform.job.paths import home_folder

URL = "https://coordinator.example:443"


@pytest.fixture
def owners_file(tmp_path: Path) -> Path:
    file = tmp_path / "owner" / "silo.yaml"
    arguments = ["silo", "init", "alder", "--dataset", "tumours=/data/alder.parquet"]
    arguments += ["--file", str(file), "--state", str(tmp_path / "state")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    return file


def join(file: Path, coordinator: Identity, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Join with an invitation; the enrolment itself is not sent."""
    token = Token("join", URL, coordinator.public, bytes(16), "alder")

    class Enrolled:
        identity = coordinator.public

    monkeypatch.setattr(joining, "join", lambda *_: Enrolled)
    done = CliRunner().invoke(app, ["silo", "join", written(token), "--file", str(file)])
    assert done.exit_code == 0, done.output
    return done


def test_join_prints_what_to_add_to_a_file_that_it_cannot_write(
    owners_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pod the owner's file is a secret, and in /etc it is root's."""
    coordinator, opened = Identity(tmp_path / "coordinator.pem"), Path.open

    def refusing(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if path == owners_file and mode != "r":
            raise PermissionError(13, "Permission denied")
        return opened(path, mode, *rest, **named)

    before = owners_file.read_text()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refusing)
        done = join(owners_file, coordinator, patched)
    assert owners_file.read_text() == before
    assert f"{owners_file} cannot be written here. Add to it:" in done.stderr
    section = done.stdout.partition("\n")[2]
    assert list(yaml.safe_load(section)) == ["coordinator"]
    owners_file.write_text(before + section)
    assert open_silo(owners_file).coordinator.url == URL
    # Joining again, with the section in place, has nothing to add.
    again = join(owners_file, coordinator, monkeypatch)
    assert "coordinator:" not in again.stdout


def test_join_adds_the_section_itself_where_it_can(
    owners_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = join(owners_file, Identity(tmp_path / "coordinator.pem"), monkeypatch)
    assert "Add to it" not in done.stderr
    assert open_silo(owners_file).coordinator.url == URL


def test_the_certificate_of_a_silo_that_has_joined_is_renewed_in_time(
    owners_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_authority(tmp_path, 90)
    join(owners_file, Identity(tmp_path / "coordinator.pem"), monkeypatch)
    home = open_silo(owners_file)
    first = make_request(home.tls, "alder.silo")
    keep_certificate(home.tls, *sign_request(tmp_path, first, "alder.silo", 90))
    renewing = joining.link_settings(home).renewing
    assert renewing and renewing.request() is None
    last_days = sign_request(tmp_path, make_request(home.tls, "alder.silo"), "alder.silo", 1e-3)
    keep_certificate(home.tls, *last_days)
    request = renewing.request()
    assert request
    renewing.keep(*sign_request(tmp_path, request, "alder.silo", 90))
    assert days_left(home.tls) > 89 and renewing.request() is None


def test_a_coordinator_can_be_made_for_a_ray_that_runs_already(tmp_path: Path) -> None:
    for name, more, ray in (("own", [], None), ("joins", ["--ray", "auto"], "auto")):
        folder = tmp_path / name
        arguments = ["coordinator", "init", "--url", "https://localhost:443"]
        done = CliRunner().invoke(app, [*arguments, "--folder", str(folder), *more])
        assert done.exit_code == 0, done.output
        assert open_home(folder).file.ray == ray


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """This user has no HOME, and no entry in the password database, as in some containers."""

    def unknown(uid: int) -> Any:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("BLINDSUM_HOME", raising=False)


def test_a_user_without_a_home_folder_is_told_what_to_set(homeless: None) -> None:
    assert home_folder() == Path("/nonexistent/.blindsum")
    with pytest.raises(ClusterError, match="this user has none. Set HOME or BLINDSUM_HOME"):
        _ensure_home()
    done = CliRunner().invoke(app, ["silo", "init", "alder", "--dataset", "a=/a.csv"])
    assert "this user has no home folder" in str(done.exception)


def test_blindsums_folder_takes_the_place_of_a_missing_home(
    homeless: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLINDSUM_HOME", str(tmp_path))
    _ensure_home()
    assert os.environ.pop("HOME") == str(tmp_path)


def test_a_home_folder_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _ensure_home()
    assert os.environ["HOME"] == str(tmp_path)
