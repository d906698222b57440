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
from blindsum.platform.job.descriptor_sets import SETS
from blindsum.platform.job.features_section import Descriptors, Scaling

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "platform" / "data" / "scalings"


def section(**settings: Any) -> Descriptors:
    return Descriptors(kind="descriptors", **settings)


ALL = "druglike-1"
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


SET_DIGESTS = {
    "all": "f51b038ed92a4eb5",
    "physchem": "ad062e53385c3d39",
    "pharmacophore": "f6b8f3903d1c1b27",
    "surface": "7622e9e7406eaea4",
    "topology": "06ea6d18814dd9d1",
    "fragments": "b41d0868136a2491",
}


@pytest.mark.parametrize("name", SETS)
def test_a_set_of_descriptors_is_written_out_and_never_changes(name: str) -> None:
    """A job means the same in every version, and owners approve the descriptors themselves."""
    named = SETS[name]
    assert hashlib.sha256(" ".join(named).encode()).hexdigest()[:16] == SET_DIGESTS[name]
    one = section(descriptors=name)
    assert one == section(descriptors=[name]) == section(descriptors=list(named), scaling=ALL)
    assert one.model_dump() == {
        "kind": "descriptors", "smiles": "smiles", "descriptors": list(named), "scaling": ALL,
    }  # fmt: skip
    assert Descriptors.model_validate(one.model_dump()) == one
    assert list(descriptor_scaling(one)) == list(named)


def test_the_sets_are_what_they_are_called() -> None:
    assert set(SETS["all"]) == public_scaling(ALL).keys()
    assert set(SETS["physchem"]) == public_scaling("esol-1").keys()
    small = section(descriptors="physchem", scaling="esol-1")
    assert descriptor_scaling(small) == dict(public_scaling("esol-1")) | descriptor_scaling(small)
    assert all(name.startswith("fr_") for name in SETS["fragments"])


def test_sets_and_descriptors_go_together_without_repetition() -> None:
    one = section(descriptors=["MolWt", "physchem", "surface", "fr_urea"])
    expected = dict.fromkeys(["MolWt", *SETS["physchem"], *SETS["surface"], "fr_urea"])
    assert one.descriptors == list(expected)
    with pytest.raises(ValidationError, match="a descriptor is named twice"):
        section(descriptors=["physchem", "fr_urea", "fr_urea"])
    with pytest.raises(ValidationError, match="'MolWt' is not a set, which are all, physchem"):
        section(descriptors="MolWt")
    with pytest.raises(ValidationError):
        section(descriptors=[["physchem"], 5])


def test_the_docs_list_every_set() -> None:
    text = (ROOT / "docs" / "descriptor-scaling.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+) \| [^|]+ \|$", text, re.MULTILINE))
    assert {name: int(count) for name, count in rows.items()} == {
        name: len(named) for name, named in SETS.items()
    }


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
