"""The units for systemd, as systemd itself reads them."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.infra.test_systemd import FOLDER, UNITS


@pytest.mark.parametrize("name", UNITS)
def test_systemd_knows_every_setting(name: str, tmp_path: Path) -> None:
    text = (FOLDER / f"{name}.service").read_text()
    program = re.search(r"^ExecStart=(\S+)", text, re.MULTILINE)
    assert program
    copy = tmp_path / f"{name}.service"
    copy.write_text(text.replace(program[1], "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", str(copy)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
