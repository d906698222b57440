"""Public constants for descriptors: by name, unchanging, and listed in the docs."""

import csv
import hashlib
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from blindsum.platform.data.descriptors import descriptor_scaling
from blindsum.platform.data.scaling import SCALINGS, public_scaling
from blindsum.platform.job.features_section import Descriptors, Scaling

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "platform" / "data" / "scalings"


def section(**settings: Any) -> Descriptors:
    return Descriptors(kind="descriptors", **settings)


DIGESTS = {
    "esol-1": "fd069505f8d66d6f",
    "druglike-1": "ce9a8f6732f17861",
}


@pytest.mark.parametrize("name", SCALINGS)
def test_a_named_set_never_changes(name: str) -> None:
    """Silos with another file under this name would train on other features."""
    content = (FOLDER / f"{name}.csv").read_bytes()
    assert hashlib.sha256(content).hexdigest()[:16] == DIGESTS[name]


def test_the_sets_are_those_that_a_job_can_name() -> None:
    named = get_args(get_args(Descriptors.model_fields["scaling"].annotation)[0])
    assert set(named) == set(SCALINGS) == {path.stem for path in FOLDER.glob("*.csv")}


def test_a_job_that_names_no_set_means_what_it_meant() -> None:
    """Nothing is added to what its digest, and so an owner's approval, is over."""
    old = section(descriptors=["MolLogP", "qed"])
    assert descriptor_scaling(old) == {
        "MolLogP": Scaling(center=2.5, scale=1.9),
        "qed": Scaling(center=0.55, scale=0.15),
    }
    assert descriptor_scaling(section(descriptors=["qed"], scaling="esol-1")) == {
        "qed": Scaling(center=0.55, scale=0.15)
    }
    assert "scaling" not in old.model_dump() and "scaling" not in old.model_dump_json()


def test_a_job_that_names_a_set_gets_it() -> None:
    new = section(descriptors=["MolWt", "NumRotatableBonds"], scaling="druglike-1")
    found = descriptor_scaling(new)
    assert 300 < found["MolWt"].center < 500
    assert found == {name: public_scaling("druglike-1")[name] for name in found}
    assert new.model_dump()["scaling"] == "druglike-1"


def test_constants_are_given_once() -> None:
    with pytest.raises(ValidationError, match="give scaling with a list of descriptors"):
        section(descriptors={"qed": Scaling()}, scaling="druglike-1")
    with pytest.raises(ValidationError):
        section(descriptors=["qed"], scaling="druglike-2")


def test_the_docs_list_every_constant() -> None:
    text = (ROOT / "docs" / "descriptor-scaling.md").read_text("utf-8")
    rows = {}
    for line in text.splitlines():
        if found := re.fullmatch(r"\| `(\w+)` \|" + 4 * r" ([-\d.e+]*) \|", line):
            rows[found[1]] = found.groups()[1:]
    for name, columns in zip(SCALINGS, (slice(0, 2), slice(2, 4)), strict=True):
        with (FOLDER / f"{name}.csv").open(encoding="utf-8") as file:
            listed = {
                row["descriptor"]: (row["center"], row["scale"]) for row in csv.DictReader(file)
            }
        said = {one: row[columns] for one, row in rows.items() if row[columns] != ("", "")}
        assert said.keys() == listed.keys()
        for one, (center, scale) in listed.items():
            assert (float(said[one][0]), float(said[one][1])) == (float(center), float(scale))
