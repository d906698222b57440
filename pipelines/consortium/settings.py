"""The coordinator's folder: its settings, identity, authority, registry, jobs and results.

coordinator.yaml      settings, for people to edit
identity.pem          the coordinator's signing keys
ca.crt, ca.key        the authority that signs the silos' and the gate's certificates
gate/                 the gate's certificate and key
registry.sqlite       silos, invitations, proposals (`blindsum.actors.separate.registry`)
proposer.token        lets its holder propose jobs
jobs/                 proposed jobs, results in jobs/runs, MLflow's database
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from blindsum.actors.separate.registry import Registry
from blindsum.he.identity import Identity
from blindsum.infra.certificates import CA_CERTIFICATE, make_authority, make_node
from blindsum.pipelines.consortium.invitation import Token, written
from blindsum.platform.errors import JobError
from blindsum.platform.job.paths import home_folder
from blindsum.platform.job.section import Section
from blindsum.platform.job.yaml_reader import dump, parse_section, read_section

FILE = "coordinator.yaml"
CERTIFICATE_DAYS = 90
_AUTHORITY_DAYS = 3650


class CoordinatorFile(Section):
    """The settings of a coordinator."""

    url: str = Field(
        pattern=r"^https://[^/ ]+$", description="https://HOST:PORT, as silos reach it."
    )
    listen: list[str] = Field(
        min_length=1, max_length=8, description="Addresses to listen on, as HOST:PORT."
    )
    tls: Literal["mutual", "inspected"] = Field(
        "mutual",
        description="inspected: also accept silos behind a proxy that ends TLS, without a client "
        "certificate. Messages are sealed and authentic in both cases.",
    )
    factory: Literal["refuse", "run"] = Field(
        "refuse",
        description="run: accept jobs that bring code of their own (model.factory, training.loss, "
        "data.features.function). "
        "The coordinator imports the model's when it saves the model.",
    )
    ray: str | None = Field(
        None, description="Address of a Ray cluster for the aggregators; default: start one here."
    )

    @field_validator("listen")
    @classmethod
    def _are_addresses(cls, listen: list[str]) -> list[str]:
        for one in listen:
            host_and_port(one)
        return listen


@dataclass(frozen=True)
class CoordinatorHome:
    """A coordinator's folder."""

    folder: Path
    file: CoordinatorFile

    @property
    def registry(self) -> Registry:
        """Silos, invitations and proposals."""
        return Registry(self.folder / "registry.sqlite")

    @property
    def identity(self) -> Identity:
        """The coordinator's signing keys."""
        return Identity(self.folder / "identity.pem")

    @property
    def tls(self) -> Path:
        """The folder with the gate's certificate."""
        return self.folder / "gate"

    @property
    def jobs(self) -> Path:
        """The folder of the proposed jobs."""
        return self.folder / "jobs"

    @property
    def proposer_token(self) -> Path:
        """The file with the token of whoever may propose."""
        return self.folder / "proposer.token"


def default_folder() -> Path:
    """Return the folder that is used if none is given."""
    return home_folder() / "coordinator"


def open_home(folder: Path | None) -> CoordinatorHome:
    """Return a coordinator's folder.

    Raises:
        JobError: there is none, or its settings are not valid; lists every fault at once.
    """
    folder = (folder or default_folder()).absolute()
    start = "Make one with: blindsum coordinator init --url https://HOST:PORT"
    return CoordinatorHome(
        folder, read_section(folder / FILE, CoordinatorFile, "coordinator's", start).section
    )


def make_home(
    folder: Path | None, url: str, listen: list[str], ray: str | None = None
) -> CoordinatorHome:
    """Make a coordinator's folder with new keys.

    Args:
        listen: where to listen; default: all addresses, on the URL's port.
        ray: address of a Ray cluster for the aggregators, or None to start one here.

    Raises:
        JobError: the folder exists, cannot be written, or the URL is not valid.
    """
    folder = (folder or default_folder()).absolute()
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    content: dict[str, object] = {"url": url, "listen": listen or [f"0.0.0.0:{port}"]}
    if ray:
        content["ray"] = ray
    parse_section(dump(content), "the settings", CoordinatorFile, "coordinator's", "")
    if (folder / FILE).exists():
        raise JobError(f"{folder / FILE} already exists", "Name another --folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_authority(folder, _AUTHORITY_DAYS)
        make_node(folder, "gate", [host], CERTIFICATE_DAYS * 4)
        (folder / "jobs").mkdir(exist_ok=True, mode=0o700)
        (folder / FILE).write_text(dump(content), encoding="utf-8")
        home = open_home(folder)
        secret = home.registry.add_proposer("the coordinator's operator")
        token = Token("propose", url, home.identity.public, secret, "")
        opened = os.open(home.proposer_token, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with open(opened, "w", encoding="ascii") as file:
            file.write(written(token) + "\n")
    except OSError as error:
        raise JobError(f"{folder} cannot be written: {error.strerror}") from None
    return home


def host_and_port(text: str) -> tuple[str, int]:
    """Return the parts of HOST:PORT; IPv6 addresses are in brackets.

    Raises:
        ValueError: it has another form.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{text!r} does not have the form HOST:PORT")
    return host.strip("[]"), int(port)


def authority(home: CoordinatorHome) -> str:
    """Return the authority's certificate, PEM."""
    return (home.folder / CA_CERTIFICATE).read_text(encoding="ascii")
