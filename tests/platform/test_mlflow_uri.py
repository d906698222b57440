"""Paths in MLflow's URIs."""

from pathlib import Path

import pytest

from blindsum.platform.tracking.mlflow_uri import open_client, sqlite_file, sqlite_uri

ODD = ("309 r&d #1 50% e?x=1", "50%20", "a+b", "%2e%2e", "ø;p=1", "plain")


@pytest.mark.parametrize("name", ODD)
def test_a_path_comes_back_from_its_uri(name: str, tmp_path: Path) -> None:
    path = tmp_path / name / "mlflow.db"
    assert sqlite_file(sqlite_uri(path)) == path


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:5000", "postgresql://a@b/c", "databricks", "", "//"]
)
def test_other_databases_have_no_file(uri: str) -> None:
    assert sqlite_file(uri) is None


def test_mlflow_writes_into_the_folder_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / ODD[0] / "mlflow.db"
    path.parent.mkdir()
    client = open_client(sqlite_uri(path))
    folder = path.parent / "mlartifacts"
    run = client.create_run(client.create_experiment("one", folder.as_uri()))
    client.log_text(run.info.run_id, "said", "said.txt")
    home = "home"  # of the test itself
    assert {p.name for p in tmp_path.iterdir()} == {path.parent.name, home}
    assert path.exists() and [p.name for p in folder.rglob("*.txt")] == ["said.txt"]
