"""What a silo's process imports: each import delays every silo's start."""

import subprocess
import sys


def test_a_silo_imports_neither_scipy_nor_rdkit_before_it_knows_its_job() -> None:
    code = (
        "import sys, blindsum.actors.shared_process\n"
        "print({'scipy.stats', 'rdkit', 'mlflow', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
