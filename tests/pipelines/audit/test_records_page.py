"""The silo's private page draws molecules; what may be shared has none."""

import numpy as np

from blindsum.pipelines.audit.attacks.reconstruction import Example, Reconstruction
from blindsum.pipelines.audit.outcome import QUICK, Audit
from blindsum.pipelines.audit.report.page import as_page
from blindsum.pipelines.audit.report.records import as_private_page
from blindsum.pipelines.audit.victim import Victim
from blindsum.platform.data.records import Fold
from blindsum.platform.data.table import SiloData
from blindsum.platform.privacy.plan import plan
from tests.conftest import MakeJob

MOLECULES = ["CCO", "c1ccccc1", "CC(=O)O"]


def test_molecules_are_drawn_for_the_silo_alone(make_job: MakeJob) -> None:
    job = make_job().job
    own = plan(job, "birch")
    assert own
    found = Audit(job, "birch", QUICK, own, molecules=MOLECULES)
    bits = np.eye(3)
    found.examples.append(Example("x", bits, bits, bits[::-1], ([0, 1, 2], [0, 1, 2], [2, 1, 0])))
    page = as_private_page(found)
    assert page.count("<svg") == 9 and "Private" in page
    assert page.count("Tanimoto 1.00") == 4, "three recovered, and one of the guesses"
    assert page.count("class=bad") == 4
    assert "<svg" not in as_page(found, "run") and "CCO" not in str(found.as_dict())
    found.molecules = []
    assert "<svg" not in as_private_page(found)


def test_of_records_as_near_the_true_one_is_shown(make_job: MakeJob) -> None:
    """Isomers have the same features."""
    job = make_job().job
    own = plan(job, "birch")
    assert own
    x = np.repeat(np.random.default_rng(0).random((2, 4)).astype(np.float32), 2, axis=0)
    fold = Fold(x, np.zeros(4, np.int64))
    tried = Reconstruction(Victim(job, "birch", SiloData(fold, fold, "", 0), own), 1, 1.0, 10)
    assert tried._nearest(x.astype(np.float64), np.arange(4)) == [0, 1, 2, 3]
    assert tried._nearest(x[::-1].astype(np.float64), np.arange(4)) == [2, 2, 0, 0]
