"""MLflow's tracking URIs: built and taken apart by the library that reads them.

A path pasted into a URL means another one as soon as it has a `%`, `?` or `#` in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mlflow


def sqlite_uri(path: Path) -> str:
    """The tracking URI of a SQLite file."""
    from sqlalchemy.engine import URL

    return URL.create("sqlite", database=str(path)).render_as_string()


def sqlite_file(uri: str) -> Path | None:
    """The file behind a tracking URI; None where that is no SQLite file."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):
        return None
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def open_client(uri: str) -> mlflow.MlflowClient:
    """MLflow's client of a tracking URI."""
    import mlflow

    # MLflow 3 makes the parents of a SQLite file from the URI as it is written: of an escaped one,
    # that is a second, empty folder beside the right one.
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
