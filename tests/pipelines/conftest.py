"""A small job and its silos' records as data frames."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

import blindsum
from tests.conftest import SILOS, job_content


@pytest.fixture
def frames(breast_cancer: pa.Table) -> dict[str, pd.DataFrame]:
    return {
        silo: breast_cancer.slice(i * 150, 150).to_pandas().set_index("patient")
        for i, silo in enumerate(SILOS)
    }


@pytest.fixture
def job(tmp_path: Path) -> blindsum.Job:
    return blindsum.Job(job_content(tmp_path), folder=tmp_path)
