"""Releases: a real run, bundled, signed by its silos and verified; and ways to lie about it."""

from __future__ import annotations

import base64
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from typer.testing import CliRunner

from blindsum.actors.thread_cluster import ThreadCluster
from blindsum.he.identity import Identity, fingerprint
from blindsum.pipelines.cli.app import app
from blindsum.pipelines.release import bundle as bundles
from blindsum.pipelines.release.bundle import (
    AUDIT,
    CARD,
    JOB,
    MANIFEST,
    MODEL,
    NEEDED,
    SBOM,
    STATEMENT,
    SUMMARY,
    Bundle,
    Confirmed,
    envelope_of,
    manifest_of,
    opened,
    read_bundle,
)
from blindsum.pipelines.release.make import make_release, sign_release
from blindsum.pipelines.release.verify import verify_release
from blindsum.pipelines.run.output import Quiet
from blindsum.pipelines.run.train import train
from blindsum.platform.errors import BlindsumError, JobError, LedgerError, ModelError
from blindsum.platform.state.ledger_entries import Entry
from tests.conftest import SILOS, MakeJob, ledger_of

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's


@dataclass(frozen=True)
class Made:
    """A run that all tests share, and its signed release. `base` has its job and its silos' state;
    nobody changes it."""

    base: Path
    folder: Path

    @property
    def job(self) -> Path:
        return self.base / "job.yaml"


_MADE: list[Made] = []


@pytest.fixture
def run(make_job: MakeJob, tmp_path: Path) -> Made:
    if not _MADE:  # of the first test: its folder stays until the session ends
        found = train(make_job("training.rounds=2"), None, Quiet(), cluster=ThreadCluster())
        _MADE.append(Made(tmp_path, found.folder))
        make_release(found.folder, tmp_path / "signed.zip", None)
        for silo in SILOS:
            sign_release(tmp_path / "signed.zip", tmp_path / "job.yaml", silo)
    return _MADE[0]


@pytest.fixture
def release(run: Made, tmp_path: Path) -> Path:
    path = tmp_path / "release.zip"
    shutil.copy(run.base / "signed.zip", path)
    return path


def identity(silo: str) -> Identity:
    return Identity(_MADE[0].base / "state" / silo / "identity.pem")


def refused(path: Path, **asked: Any) -> str:
    given: dict[str, Any] = {"known": {}, "limits": {}, "audited": False} | asked
    with pytest.raises(ModelError) as caught:
        verify_release(path, **given)
    return str(caught.value)


def resigned(path: Path, silo: str, change: Callable[[Confirmed], Confirmed]) -> None:
    """Let a silo sign something else than its books say."""
    read = read_bundle(path)
    said = opened("x", read.envelopes[f"silos/{silo}.json"]).confirmed
    envelope = envelope_of(change(said), read.manifest, identity(silo))
    Bundle(read.files, read.manifest, read.envelopes | {f"silos/{silo}.json": envelope}).write(path)


def test_a_whole_release_proves_what_it_says(release: Path, tmp_path: Path) -> None:
    known = {silo: fingerprint(identity(silo).public) for silo in SILOS}
    proof = verify_release(release, known, {}, audited=False)
    assert len(proof.lines) == 10 and not any("compare" in w for w in proof.warnings)
    said = "\n".join(proof.lines)
    assert "signed by all 3 silos" in said and "epsilon 3 at delta 0.0001" in said
    assert "computed this model itself" in said and "0 of 3 silos ran it under an approval" in said
    assert proof.signed["alder"].confirmed.identities == known
    files = read_bundle(release).files
    assert set(files) == set(NEEDED)
    assert str(_MADE[0].base) not in files[SUMMARY].decode() + files[SBOM].decode()
    parts = json.loads(files[SBOM])
    names = {one["name"] for one in parts["components"]}
    assert parts["bomFormat"] == "CycloneDX" and {"torch", "tenseal", "ray", "opacus"} <= names
    assert b"mean" in files["model-card.md"] or b"accuracy" in files["model-card.md"]


def test_the_commands_and_what_they_print(run: Made, tmp_path: Path) -> None:
    def said(*arguments: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, arguments)
        return done.exit_code, done.stdout, done.stderr + str(done.exception or "")

    path, job = str(tmp_path / "out.zip"), str(run.job)
    code, out, err = said("release", "create", str(run.folder), "--to", path)
    assert code == 0 and out == "" and "alder, birch, cedar" in err
    assert "has not signed it" in said("verify", path)[2]
    for silo in SILOS:
        code, out, err = said("release", "sign", path, job, "--silo", silo)
        assert code == 0 and "2 charged attempts, epsilon 3" in " ".join(err.split())
    code, out, err = said("verify", path)
    assert code == 0 and len(out.splitlines()) == 10 and "compare these fingerprints" in err
    code, out, err = said("verify", path, "--json")
    assert json.loads(out)["round"] == 2
    assert "is no fingerprint" in said("verify", path, "--silo", "alder=12")[2]
    assert "already exists" in said("release", "create", str(run.folder), "--to", path)[2]
    assert "it has no audit" in said("verify", path, "--require-audit")[2]


@pytest.mark.parametrize("member", [MANIFEST, *NEEDED, "silos/alder.json"])
def test_a_changed_byte_is_named(release: Path, tmp_path: Path, member: str) -> None:
    with zipfile.ZipFile(release) as archive:
        members = {name: bytearray(archive.read(name)) for name in archive.namelist()}
    place = len(members[member]) // 2
    members[member][place] ^= 1
    altered = tmp_path / "altered.zip"
    with zipfile.ZipFile(altered, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, bytes(content))
    assert member in refused(altered) or "manifest" in refused(altered)


def test_a_missing_silo_a_stranger_and_another_release_are_named(
    release: Path, tmp_path: Path, make_job: MakeJob
) -> None:
    read = read_bundle(release)
    few = {name: one for name, one in read.envelopes.items() if "birch" not in name}
    Bundle(read.files, read.manifest, few).write(tmp_path / "few.zip")
    assert "silo 'birch' has not signed it" in refused(tmp_path / "few.zip")
    said = opened("x", read.envelopes["silos/birch.json"]).confirmed
    stranger = envelope_of(said, read.manifest, Identity(tmp_path / "stranger.pem"))
    forged = few | {"silos/birch.json": stranger}
    Bundle(read.files, read.manifest, forged).write(tmp_path / "forged.zip")
    assert "knows silo 'birch' by another identity" in refused(tmp_path / "forged.zip")
    assert "another identity than the given one" in refused(release, known={"alder": "0" * 64})
    other = manifest_of(read.files | {"note.txt": b""}, read.said.predicate)
    Bundle(read.files | {"note.txt": b""}, other, read.envelopes).write(tmp_path / "other.zip")
    assert "signed another manifest" in refused(tmp_path / "other.zip")


def test_a_confirmation_that_was_altered_after_it_was_signed_is_named(
    release: Path, tmp_path: Path
) -> None:
    read = read_bundle(release)
    envelope = json.loads(read.envelopes["silos/alder.json"])
    payload = json.loads(base64.b64decode(envelope["payload"]))
    payload["predicate"]["approved"] = True
    envelope["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    forged = read.envelopes | {"silos/alder.json": json.dumps(envelope).encode()}
    replace(read, envelopes=forged).write(tmp_path / "forged.zip")
    assert "silos/alder.json: the signature of the release" in refused(tmp_path / "forged.zip")
    envelope["signatures"][0]["keyid"] = "0" * 64
    forged = read.envelopes | {"silos/alder.json": json.dumps(envelope).encode()}
    replace(read, envelopes=forged).write(tmp_path / "forged.zip")
    assert "not that of the keyid" in refused(tmp_path / "forged.zip")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.model_copy(update={"model": "0" * 64}), "computed another model"),
        (lambda c: c.model_copy(update={"job": "0" * 64}), "joined another job"),
        (lambda c: c.model_copy(update={"round": 1}), "another run or round"),
        (lambda c: c.model_copy(update={"charges": c.charges[:1]}), "has not charged round 2"),
        (lambda c: c.model_copy(update={"epsilon": 0.5}), "charged more than its budget"),
        (
            lambda c: c.model_copy(
                update={"charges": [one.model_copy(update={"epsilon": 1.0}) for one in c.charges]}
            ),
            "in summary.json is not what it charged",
        ),
        (lambda c: c.model_copy(update={"identities": {}}), "by another identity"),
        (
            lambda c: c.model_copy(
                update={"charges": [one.model_copy(update={"round": 5}) for one in c.charges]}
            ),
            "has not charged round 1",
        ),
        (lambda c: c.model_copy(update={"silo": "birch"}), "is that of silo 'birch'"),
    ],
)
def test_a_silo_that_confirms_something_else_is_named(
    release: Path, tmp_path: Path, change: Callable[[Confirmed], Confirmed], said: str
) -> None:
    resigned(release, "alder", change)
    assert said in refused(release)


def test_a_silo_signs_only_what_its_own_books_confirm(run: Made, tmp_path: Path) -> None:
    """Whoever makes the bundle cannot get a signature on another model, job, or epsilon."""
    path, job = tmp_path / "r.zip", run.job
    made = make_release(run.folder, path, None)
    newest = (run.folder / "model-newest.blindsum").read_bytes()
    summary = json.loads(made.files[SUMMARY])
    lower = json.dumps(summary | {"epsilon": dict.fromkeys(SILOS, 0.1)}).encode()
    other_job = made.files[JOB].replace(b"learning_rate: 0.5", b"learning_rate: 0.4")
    assert other_job != made.files[JOB]
    stated = json.loads(made.files[STATEMENT])
    stated["Privacy parameters"]["alder"]["epsilon spent"] = 0.1
    card = made.files[CARD].replace(b"epsilon 3", b"epsilon 0.1")
    assert card != made.files[CARD]
    for name, content, said in (
        (MODEL, newest, "the model is not the one that this silo computed"),
        (SUMMARY, lower, "silo 'alder' in summary.json is not what it charged"),
        (STATEMENT, json.dumps(stated).encode(), "in privacy-statement.json is not what it"),
        (CARD, card, "model-card.md is not what"),
        (JOB, other_job, "the job is not the one that this silo joined"),
    ):
        files = made.files | {name: content}
        lie = Bundle(files, manifest_of(files, made.said.predicate), {})
        lie.write(tmp_path / "lie.zip")
        with pytest.raises(ModelError, match=said):
            sign_release(tmp_path / "lie.zip", job, "alder")
    release = made.said.predicate.model_copy(update={"silos": ["alder", "birch"]})
    Bundle(made.files, manifest_of(made.files, release), {}).write(tmp_path / "lie.zip")
    with pytest.raises(ModelError, match="the silos are not those of the run"):
        sign_release(tmp_path / "lie.zip", job, "alder")


def test_a_silo_that_was_lost_or_has_no_books_does_not_sign(run: Made, tmp_path: Path) -> None:
    path = tmp_path / "r.zip"
    made = make_release(run.folder, path, None)
    release = made.said.predicate.model_copy(update={"run": "another-run"})
    Bundle(made.files, manifest_of(made.files, release), {}).write(tmp_path / "lie.zip")
    with pytest.raises(LedgerError, match="has not completed the run another-run"):
        sign_release(tmp_path / "lie.zip", run.job, "alder")
    elsewhere = tmp_path / "elsewhere.yaml"  # where no silo has its books
    there = str(run.base / "state")
    elsewhere.write_text(run.job.read_text().replace(there, str(tmp_path / "empty")))
    with pytest.raises(LedgerError, match="on the silo's own machine"):
        sign_release(path, elsewhere, "birch")


def test_a_run_under_an_owners_approval_is_said_to_be(run: Made, tmp_path: Path) -> None:
    shutil.copytree(run.base / "state", tmp_path / "state")
    job = tmp_path / "job.yaml"
    job.write_text(run.job.read_text().replace(str(run.base), str(tmp_path)))
    path = tmp_path / "r.zip"
    name = make_release(run.folder, path, None).said.predicate.run
    assert not sign_release(path, job, "alder").approved
    ledger = ledger_of(tmp_path / "state" / "alder", "alder")
    begun = Entry("begun", 0.0, name, "alder", "", 0, 0, 0.0, 0.0, {"approval": "1"})
    ledger.append(begun)
    assert sign_release(path, job, "alder").approved


def test_the_audit_is_part_of_it_and_its_gate_is_kept(run: Made, tmp_path: Path) -> None:
    report, path = tmp_path / "audit.json", tmp_path / "r.zip"
    gate = {"outsider.lira.tpr_at_1pct_fpr": 0.02, "protocol.accepted_forgeries": 0.0}
    report.write_text(json.dumps({"gate": gate}))
    make_release(run.folder, path, report)
    for silo in SILOS:
        sign_release(path, run.job, silo)
    figure = "outsider.lira.tpr_at_1pct_fpr"
    proof = verify_release(path, {}, {figure: 0.03}, audited=True)
    assert proof.lines[-1] == "an audit is part of it, and holds"
    assert "is 0.02, above 0.01" in refused(path, limits={figure: 0.01})
    assert "has no figure nonsense" in refused(path, limits={"nonsense": 1.0})
    assert AUDIT in read_bundle(path).files
    report.write_text("not json")
    with pytest.raises(JobError, match="not an object in JSON"):
        make_release(run.folder, tmp_path / "other.zip", report)


def test_runs_without_privacy_say_so_first(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job("training.rounds=1", "privacy={noise: none}")
    found = train(job, None, Quiet(), cluster=ThreadCluster())
    path = tmp_path / "r.zip"
    make_release(found.folder, path, None)
    for silo in SILOS:
        sign_release(path, tmp_path / "job.yaml", silo)
    said = verify_release(path, {}, {}, audited=False).lines
    assert any("WITHOUT differential privacy" in line for line in said)


def test_runs_that_did_not_complete_are_not_released(run: Made, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run.folder, folder)
    summary = folder / SUMMARY
    summary.write_text(summary.read_text().replace('"FINISHED"', '"KILLED"'))
    with pytest.raises(JobError, match="did not complete"):
        make_release(folder, tmp_path / "r.zip", None)
    lost = json.loads(summary.read_text()) | {"status": "FINISHED", "lost": {"birch": 2}}
    summary.write_text(json.dumps(lost))
    with pytest.raises(JobError, match="lost birch, who cannot confirm"):
        make_release(folder, tmp_path / "r.zip", None)
    (folder / STATEMENT).unlink()
    with pytest.raises(JobError, match="cannot be read"):
        make_release(folder, tmp_path / "r.zip", None)


def test_files_that_are_no_releases_are_refused(tmp_path: Path, release: Path) -> None:
    content = release.read_bytes()
    broken = tmp_path / "broken.zip"
    for wrong in (b"", b"PK", content[: len(content) // 2], content[:-1], b"\0" * 1000):
        broken.write_bytes(wrong)
        with pytest.raises(BlindsumError):
            verify_release(broken, {}, {}, audited=False)
    with zipfile.ZipFile(broken, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, b"{}" * 1000)
    assert "not a release" in refused(broken)
    assert "no bundle" in refused(tmp_path / "none.zip")
    read = read_bundle(release)
    for envelope in (b"{}", b"[]", b"\xff", json.dumps({"payload": "*"}).encode()):
        bad = replace(read, envelopes=read.envelopes | {"silos/alder.json": envelope})
        bad.write(broken)
        assert "silos/alder.json is not a silo's signature" in refused(broken)


@hypothesis.settings(
    max_examples=40, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(data=st.data())
def test_whatever_a_file_holds_it_is_refused_in_words(
    release: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """The manifest fits, so that everything behind it meets what nobody vouched for."""
    read = read_bundle(release)
    name = data.draw(st.sampled_from([*NEEDED, AUDIT]))
    values = st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["epsilon", "metrics", "Privacy parameters", "gate", "alder"]),
                inner,
                max_size=4,
            )
        ),
    )
    content = data.draw(st.binary(max_size=40) | values.map(lambda v: json.dumps(v).encode()))
    files = read.files | {name: content}
    wrong = Bundle(files, manifest_of(files, read.said.predicate), read.envelopes)
    wrong.write(tmp_path / "wrong.zip")
    for limits in ({}, {"gate": 1.0}):
        assert refused(tmp_path / "wrong.zip", limits=limits)


def test_what_is_signed_is_the_encoding_of_dsse(release: Path, tmp_path: Path) -> None:
    """The protocol's own formula, written out: another tool can check the signatures."""
    envelope = json.loads(read_bundle(release).envelopes["silos/cedar.json"])
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"]
    encoded = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    assert Identity.holds(identity("cedar").public, signature, encoded)
    assert bundles.sha256(read_bundle(release).manifest) in payload.decode()
