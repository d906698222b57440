"""MLflow's tracking URIs and pages. URIs are built and parsed by the library that MLflow uses.

A path pasted into a URL changes its meaning if it contains `%`, `?` or `#`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mlflow

_LOCAL_SERVER = "http://127.0.0.1:5000"
"""The address of `mlflow ui`, unless it is told another."""


def runs_page(uri: str, experiment_id: str) -> str | None:
    """Return the address of the page with an experiment's runs, on its server or on a `mlflow ui`
    of this machine. None for a service whose pages are elsewhere, such as Databricks.

    Without the workflow's type, MLflow 3 opens the page of traces of language models.
    """
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "file"):
        return None
    server = uri.rstrip("/") if scheme.startswith("http") else _LOCAL_SERVER
    return f"{server}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def sqlite_uri(path: Path) -> str:
    """Return the tracking URI of a SQLite file."""
    from sqlalchemy.engine import URL

    return URL.create("sqlite", database=str(path)).render_as_string()


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a tracking URI, or None if it is not a SQLite file."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):
        return None
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def open_client(uri: str) -> mlflow.MlflowClient:
    """Return an MLflow client for a tracking URI."""
    import mlflow

    # MLflow 3 creates the parent folders of a SQLite file from the URI as it is written. For an
    # escaped URI that is a second, empty folder beside the right one.
    written = uri.removeprefix("sqlite:///")
    stray = (
        [folder for folder in Path(written).parents if not folder.exists()]
        if written != uri and Path(written) != sqlite_file(uri)
        else []
    )
    try:
        return mlflow.MlflowClient(uri)
    finally:
        for folder in stray:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
