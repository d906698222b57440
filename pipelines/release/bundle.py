"""The file of a release: a zip archive, in which nothing is compressed and nothing is pickled.

    manifest.json          an in-toto statement (v1) with the SHA-256 of every file below
    model.blindsum         the released model
    job.yaml               the job as it was run
    privacy-statement.json, summary.json
    model-card.md          what the model is, for people
    sbom.cdx.json          the packages of the machine that made the bundle (CycloneDX 1.6)
    audit.json             the audit's report, if one was given
    silos/NAME.json        what the silo NAME confirms, signed: a DSSE envelope of an in-toto
                           statement about manifest.json

Specifications: in-toto attestation framework v1, DSSE v1.0.2 (secure-systems-lab/dsse). A silo's
signature is one by each of its keys (`blindsum.he.identity`); the envelope also has the public
keys, of which `keyid` is the SHA-256. Equal content makes equal files.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from blindsum.he.identity import Identity, fingerprint, verify
from blindsum.platform.errors import KeyRefused, ModelError
from blindsum.platform.job.section import Section

MANIFEST, MODEL, JOB = "manifest.json", "model.blindsum", "job.yaml"
STATEMENT, SUMMARY = "privacy-statement.json", "summary.json"
CARD, SBOM, AUDIT = "model-card.md", "sbom.cdx.json", "audit.json"
NEEDED = (MODEL, JOB, STATEMENT, SUMMARY, CARD, SBOM)
SILOS = "silos/"

IN_TOTO = "https://in-toto.io/Statement/v1"
PAYLOAD = "application/vnd.in-toto+json"
RELEASE, CONFIRMED = "urn:blindsum:release:1", "urn:blindsum:silo:1"
_MOST_BYTES, _MOST_TEXT, _MOST_MEMBERS = 2**36, 64 * 2**20, 100
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class Digest(Section):
    """A file's digest, as in-toto writes it."""

    sha256: Sha256


class Subject(Section):
    """A file that a statement is about."""

    name: Name
    digest: Digest


class Release(Section):
    """What the bundle is: the run, the round of its model, and the silos that trained it."""

    run: Name
    round: int = Field(ge=1)
    blindsum: Name
    silos: list[Name] = Field(min_length=1, max_length=64)


class Charge(Section):
    """A charged attempt, and the silo's epsilon after it; None without differential privacy."""

    round: int = Field(ge=1)
    attempt: int = Field(ge=1)
    epsilon: float | None = Field(None, ge=0)


class Confirmed(Section):
    """What a silo confirms from its own ledger and audit log.

    Attributes:
        job: the digest of the job that it joined, over every setting.
        model: the SHA-256 of the parameters that it computed itself.
        epsilon, delta: the budget that it reserved; None without differential privacy.
        charges: of training records, in the order of rounds.
        identities: fingerprints of all silos, as the key ceremony had them.
        ledger, audit_log: their heads when it signed.
        approved: whether its owner had approved the run.
    """

    silo: Name
    run: Name
    job: Sha256
    model: Sha256
    round: int = Field(ge=1)
    epsilon: float | None = Field(None, gt=0)
    delta: float | None = Field(None, gt=0, lt=1)
    charges: list[Charge] = Field(max_length=1_000_000)
    identities: dict[Name, Sha256] = Field(max_length=64)
    ledger: Name
    audit_log: Name
    approved: bool


class Manifest(Section):
    """The statement about every file."""

    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: list[Subject] = Field(min_length=1, max_length=_MOST_MEMBERS)
    predicate_type: Literal["urn:blindsum:release:1"] = Field(alias="predicateType")
    predicate: Release


class Confirmation(Section):
    """The statement that a silo signs."""

    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: list[Subject] = Field(min_length=1, max_length=1)
    predicate_type: Literal["urn:blindsum:silo:1"] = Field(alias="predicateType")
    predicate: Confirmed


class Signature(Section):
    """A signature of an envelope, with the public keys that it is by."""

    keyid: Sha256
    sig: str = Field(max_length=10_000)
    public: str = Field(max_length=10_000)


class Envelope(Section):
    """A DSSE envelope with one signature."""

    payload: str = Field(max_length=_MOST_TEXT)
    payload_type: Literal["application/vnd.in-toto+json"] = Field(alias="payloadType")
    signatures: list[Signature] = Field(min_length=1, max_length=1)


@dataclass(frozen=True)
class Signed:
    """A silo's confirmation, and the fingerprint of the identity that signed it."""

    confirmed: Confirmed
    manifest: str
    by: str


def sha256(content: bytes) -> str:
    """Return the SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def manifest_of(files: Mapping[str, bytes], release: Release) -> bytes:
    """Return the manifest of a bundle's files."""
    return _statement(
        [(name, sha256(content)) for name, content in sorted(files.items())], RELEASE, release
    )


def envelope_of(confirmed: Confirmed, manifest: bytes, identity: Identity) -> bytes:
    """Return a silo's confirmation of a manifest, signed."""
    payload = _statement([(MANIFEST, sha256(manifest))], CONFIRMED, confirmed)
    signature = {
        "keyid": fingerprint(identity.public),
        "sig": base64.b64encode(identity.sign(_encoded(payload))).decode(),
        "public": base64.b64encode(identity.public).decode(),
    }
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD,
        "signatures": [signature],
    }
    return json.dumps(envelope, indent=1).encode()


def opened(name: str, content: bytes) -> Signed:
    """Return what an envelope holds, once its signature is checked.

    Raises:
        ModelError: it is not such an envelope, or its signature does not verify.
    """
    try:
        envelope = Envelope.model_validate_json(content)
        signature = envelope.signatures[0]
        payload, sig, public = (
            base64.b64decode(one, validate=True)
            for one in (envelope.payload, signature.sig, signature.public)
        )
        if signature.keyid != fingerprint(public):
            raise KeyRefused("the key is not that of the keyid")
        verify(public, sig, _encoded(payload), "release")
        found = Confirmation.model_validate_json(payload)
        if found.subject[0].name != MANIFEST:
            raise ValueError
    except KeyRefused as error:
        raise ModelError(f"{name}: {error.what}", _ALTERED) from None
    except (ValidationError, ValueError, binascii.Error):
        raise ModelError(f"{name} is not a silo's signature of a release", _ALTERED) from None
    return Signed(found.predicate, found.subject[0].digest.sha256, signature.keyid)


_ALTERED = "It was altered or damaged: get the bundle again from a silo that you trust."


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read: its files, its manifest, and the silos' envelopes by member name.
    Digests are not checked yet."""

    files: dict[str, bytes]
    manifest: bytes
    envelopes: dict[str, bytes]

    @property
    def said(self) -> Manifest:
        """The manifest, read.

        Raises:
            ModelError: it is not one.
        """
        try:
            return Manifest.model_validate_json(self.manifest)
        except ValidationError:
            raise ModelError(f"{MANIFEST} is not the manifest of a release", _ALTERED) from None

    def require_whole(self) -> Manifest:
        """Check that the files are exactly those of the manifest, byte by byte.

        Raises:
            ModelError: names every file that is not.
        """
        said = self.said
        known = {one.name: one.digest.sha256 for one in said.subject}
        wrong = [f"{name} is missing" for name in known if name not in self.files]
        wrong += [f"{name} is not in the manifest" for name in self.files if name not in known]
        wrong += [
            f"{name} was changed"
            for name, content in self.files.items()
            if name in known and sha256(content) != known[name]
        ]
        wrong += [f"{name} is missing in the manifest" for name in NEEDED if name not in known]
        if wrong:
            raise ModelError("; ".join(wrong), _ALTERED)
        return said

    def write(self, path: Path) -> None:
        """Write the bundle, whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        content = io.BytesIO()
        members = {MANIFEST: self.manifest, **self.files, **self.envelopes}
        with zipfile.ZipFile(content, "w") as archive:
            for name, member in members.items():
                archive.writestr(zipfile.ZipInfo(name, _ZIP_TIME), member)
        fresh = path.with_name(f".{path.name}.new")
        try:
            fresh.write_bytes(content.getvalue())
            os.replace(fresh, path)
        finally:
            with suppress(OSError):
                fresh.unlink()


def read_bundle(path: Path) -> Bundle:
    """Read a bundle.

    Raises:
        ModelError: there is none, or it is not one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) > _MOST_MEMBERS or len(set(names)) < len(names):
                raise ValueError
            members = {name: _member(archive, name) for name in names}
    except FileNotFoundError:
        raise ModelError(
            f"there is no bundle {path}", "Name a file of `blindsum release create`."
        ) from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or 'damaged'}") from None
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, RuntimeError):
        raise ModelError(f"{path} is not a release, or is damaged", _ALTERED) from None
    if MANIFEST not in members:
        raise ModelError(f"{path} is not a release: it has no {MANIFEST}", _ALTERED)
    manifest = members.pop(MANIFEST)
    envelopes = {name: members.pop(name) for name in list(members) if name.startswith(SILOS)}
    return Bundle(members, manifest, envelopes)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    most = _MOST_BYTES if name == MODEL else _MOST_TEXT
    if info.file_size > most or info.compress_type != zipfile.ZIP_STORED:
        raise ValueError
    return archive.read(name)


def _statement(subjects: list[tuple[str, str]], kind: str, predicate: Section) -> bytes:
    content: dict[str, Any] = {
        "_type": IN_TOTO,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects],
        "predicateType": kind,
        "predicate": predicate.model_dump(mode="json"),
    }
    return json.dumps(content, indent=1, sort_keys=True).encode()


def _encoded(payload: bytes) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding."""
    kind = PAYLOAD.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
