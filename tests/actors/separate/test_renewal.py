"""A silo's certificate is renewed while its agent is connected, and the authority rolls over."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from blindsum.actors.separate import agent, gate
from blindsum.infra.certificates import (
    CA_CERTIFICATE,
    CA_KEY,
    NODE_CERTIFICATE,
    NODE_KEY,
    days_left,
    keep_certificate,
    make_authority,
    make_node,
    make_request,
    renewal_due,
    sign_request,
)
from tests.actors.separate.conftest import Make
from tests.actors.separate.consortium import TWO, Consortium, shared_job
from tests.actors.separate.networks import Listener, Reader, Writer
from tests.actors.separate.organisations import Organisation, until

UNTRUSTED = (
    "not connected: the connection was closed without an answer; perhaps the coordinator does "
    "not accept this silo's certificate. Trying again."
)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The serial numbers of the certificates with which sessions began."""
    numbers: list[int] = []
    real = gate.require_certificate

    def looking(request: Any, silo: str, needed: bool) -> None:
        numbers.append(int(request.transport.get_extra_info("peercert")["serialNumber"], 16))
        real(request, silo, needed)

    monkeypatch.setattr(gate, "require_certificate", looking)
    return numbers


def serial(silo: Organisation) -> int:
    return x509.load_pem_x509_certificate((silo.tls / NODE_CERTIFICATE).read_bytes()).serial_number


def give(one: Consortium, silo: Organisation, days: float) -> None:
    """Give a silo a certificate that is valid for so long."""
    asked = make_request(silo.tls, f"{silo.name}.silo")
    name = f"{silo.name}.silo"
    keep_certificate(silo.tls, *sign_request(one.coordinator.folder, asked, name, days))


def test_a_certificate_is_renewed_and_used_without_a_restart(
    consortium: Make, shown: list[int]
) -> None:
    one = consortium()
    silo = one.enrol("alder")
    give(one, silo, 1e-3)
    before = serial(silo)
    assert renewal_due(silo.tls)
    one.start("alder")
    until(lambda: len(shown) == 2, 10)
    until(lambda: one.connected("alder"), 10)
    assert shown == [before, serial(silo)] and before != serial(silo)
    assert days_left(silo.tls) > 29 and not renewal_due(silo.tls)
    assert silo.said == ["connected as silo 'alder'", "the silo's certificate was renewed"]


def test_a_certificate_is_due_in_the_last_third_of_its_lifetime(consortium: Make) -> None:
    one = consortium()
    silo = one.enrol("alder")
    give(one, silo, 3)  # 3 days left of 5, which began 2 days ago
    assert not renewal_due(silo.tls)
    give(one, silo, 0.5)  # half a day left of 2 and a half
    assert renewal_due(silo.tls)


def test_a_round_goes_on_while_a_certificate_is_renewed(
    consortium: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_parts: None
) -> None:
    monkeypatch.setattr(agent, "_RENEW_S", 0.05)
    one, job = consortium(), shared_job(tmp_path)
    one.start_all(job)
    with one.federation(job) as federation:
        for name in TWO:
            give(one, one.organisations[name], 1e-3)
        assert federation.run_round(1).attempt == 1
        until(lambda: all(days_left(one.organisations[name].tls) > 29 for name in TWO))
        assert federation.run_round(2).attempt == 1
    assert one.charges("alder") == [(1, 1), (2, 1)]


def test_a_coordinator_that_cannot_sign_is_told_and_the_old_certificate_stays(
    consortium: Make, shown: list[int]
) -> None:
    one = consortium()
    silo = one.enrol("alder")
    give(one, silo, 1e-3)
    before = serial(silo)
    os.remove(one.coordinator.folder / CA_KEY)
    one.start("alder")
    until(lambda: len(silo.said) == 2, 10)
    assert silo.said[1].startswith("the silo's certificate was not renewed: there is no readable")
    assert one.connected("alder") and shown == [before] == [serial(silo)]


# -- the authority -------------------------------------------------------------------------------


def roll_over(one: Consortium) -> None:
    """Let a new authority sign; the old one is still trusted, on both sides."""
    folder = one.coordinator.folder
    make_authority(folder / "next", 30)
    old = (folder / CA_CERTIFICATE).read_text()
    (folder / CA_CERTIFICATE).write_text((folder / "next" / CA_CERTIFICATE).read_text() + old)
    os.replace(folder / "next" / CA_KEY, folder / CA_KEY)
    one.coordinator.tls.load_verify_locations(folder / CA_CERTIFICATE)


def show_new_certificate(one: Consortium) -> None:
    """Let the gate show a certificate by the new authority."""
    made = make_node(one.coordinator.folder, "gate2", ["127.0.0.1"], 30)
    one.coordinator.tls.load_cert_chain(made / NODE_CERTIFICATE, made / NODE_KEY)


def test_an_authority_rolls_over_and_agents_follow(consortium: Make, shown: list[int]) -> None:
    one = consortium()
    silo = one.enrol("alder")
    give(one, silo, 1e-3)
    roll_over(one)
    one.start("alder")
    until(lambda: len(shown) == 2, 10)  # the second session is the one with the new certificate
    silo.stop()
    show_new_certificate(one)
    one.start("alder")
    until(lambda: len(shown) == 3, 10)
    assert shown[2] == serial(silo)
    trusted = (silo.tls / CA_CERTIFICATE).read_bytes()
    assert len(x509.load_pem_x509_certificates(trusted)) == 2


def test_an_agent_that_missed_the_rollover_says_so_and_connects_once_it_has_the_authority(
    consortium: Make,
) -> None:
    one = consortium()
    silo = one.enrol("alder")
    roll_over(one)
    show_new_certificate(one)
    one.start("alder")
    (line,) = until(lambda: silo.said, 10)
    assert line.startswith("not connected: the certificate of 127.0.0.1:") and "not trusted" in line
    (silo.tls / CA_CERTIFICATE).write_bytes((one.coordinator.folder / CA_CERTIFICATE).read_bytes())
    until(lambda: one.connected("alder"), 10)
    assert silo.said[1:] == ["connected as silo 'alder'"]


def test_a_certificate_that_has_expired_is_told_in_one_line(consortium: Make) -> None:
    one = consortium()
    silo = one.enrol("alder")
    give(one, silo, -1e-3)
    one.start("alder")
    (line,) = until(lambda: silo.said, 10)
    assert line.startswith("refused: this silo's certificate expired on 20")
    assert line.endswith(". Enrol again: blindsum silo join INVITATION.")


def test_a_certificate_of_another_authority_is_told_in_one_line(
    consortium: Make, tmp_path: Path
) -> None:
    one = consortium()
    silo = one.enrol("alder")
    make_authority(tmp_path / "other", 30)
    asked = make_request(silo.tls, "alder.silo")
    certificate, _ = sign_request(tmp_path / "other", asked, "alder.silo", 30)
    keep_certificate(silo.tls, certificate, (silo.tls / CA_CERTIFICATE).read_text())
    one.start("alder")
    (line,) = until(lambda: silo.said, 10)
    assert line == UNTRUSTED


def test_a_connection_that_is_reset_is_told_in_the_same_line(
    consortium: Make, tmp_path: Path
) -> None:
    """On a busy machine the agent's first request arrives before its certificate is rejected."""
    one = consortium()
    silo = one.enrol("alder")
    with Resetting(one.coordinator.tls) as server:
        one.start("alder", f"https://127.0.0.1:{server.port}")
        (line,) = until(lambda: silo.said, 10)
    assert line == UNTRUSTED


class Resetting(Listener):
    """A server that resets each connection when a request arrives."""

    async def serve(self, reader: Reader, writer: Writer) -> None:
        await reader.read(1)
        reset = struct.pack("ii", 1, 0)  # on, and without waiting
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
