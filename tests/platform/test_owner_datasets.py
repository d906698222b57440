"""An owner's datasets are different records: one table under two names would have two budgets."""

from __future__ import annotations

from pathlib import Path

import pytest

from blindsum.platform.job.owner import OwnerFile


def owner(*paths: Path | str) -> OwnerFile:
    datasets = {f"set{i}": {"path": str(path)} for i, path in enumerate(paths)}
    content = {"names": ["alder"], "state": "/srv/state", "datasets": datasets}
    return OwnerFile.model_validate(content)


def test_a_dataset_may_be_a_folder() -> None:
    assert owner("/data/a", "/data/a.parquet", "/data/ab").datasets["set0"].path == "/data/a"


def test_a_dataset_in_the_folder_of_another_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="set1 lies in the folder of dataset set0"):
        owner("/data/all", "/data/all/site=a/x.parquet")
    (tmp_path / "all").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "all")
    with pytest.raises(ValueError, match="set0 lies in the folder of dataset set1"):
        owner(tmp_path / "link" / "x.parquet", tmp_path / "all")
    with pytest.raises(ValueError, match="are the same file"):
        owner(tmp_path / "link", tmp_path / "all")
