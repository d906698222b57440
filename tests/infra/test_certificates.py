"""Certificates: their content, and the connections that they refuse."""

import datetime
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from blindsum.infra.certificates import environment, make_authority, make_node
from blindsum.platform.errors import JobError


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_node_is_verified_by_its_authority_and_only_under_its_addresses(tmp_path: Path) -> None:
    make_authority(tmp_path / "ca", days=30)
    node = make_node(tmp_path / "ca", "alder", ["10.0.0.2", "alder.example"], days=30)
    certificate, authority = read(node / "tls.crt"), read(tmp_path / "ca" / "ca.crt")
    for name in ("alder.example", "localhost"):
        verifier = (
            PolicyBuilder().store(Store([authority])).build_server_verifier(x509.DNSName(name))
        )
        assert verifier.verify(certificate, [])
    strange = PolicyBuilder().store(Store([authority])).build_server_verifier(x509.DNSName("birch"))
    with pytest.raises(VerificationError):
        strange.verify(certificate, [])
    make_authority(tmp_path / "other", days=30)
    other = PolicyBuilder().store(Store([read(tmp_path / "other" / "ca.crt")]))
    with pytest.raises(VerificationError):
        other.build_server_verifier(x509.DNSName("localhost")).verify(certificate, [])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == [
        "10.0.0.2",
        "127.0.0.1",
    ]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    now = datetime.datetime.now(datetime.UTC)
    assert 29 < (certificate.not_valid_after_utc - now) / datetime.timedelta(days=1) <= 30
    longer = read(make_node(tmp_path / "ca", "birch", ["10.0.0.3"], days=900) / "tls.crt")
    assert longer.not_valid_after_utc == authority.not_valid_after_utc


@pytest.mark.parametrize("behind", [1, 14, 24])
def test_a_machine_whose_clock_is_behind_trusts_a_new_certificate(
    tmp_path: Path, behind: int
) -> None:
    """By a time zone that was taken for UTC, or by a whole day."""
    make_authority(tmp_path / "ca", days=30)
    certificate = read(make_node(tmp_path / "ca", "alder", ["10.0.0.2"], days=30) / "tls.crt")
    authority = Store([read(tmp_path / "ca" / "ca.crt")])
    time = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=behind)
    policy = PolicyBuilder().store(authority).time(time)
    policy.build_server_verifier(x509.DNSName("localhost")).verify(certificate, [])


def test_only_its_owner_can_read_a_key_and_rays_environment_names_it(tmp_path: Path) -> None:
    make_authority(tmp_path / "ca", days=1)
    node = make_node(tmp_path / "ca", "alder", ["10.0.0.2"], days=1)
    for key in (tmp_path / "ca" / "ca.key", node / "tls.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not (node / "ca.key").exists()
    told = environment(node)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(told["RAY_TLS_SERVER_CERT"], told["RAY_TLS_SERVER_KEY"])
    context.load_verify_locations(told["RAY_TLS_CA_CERT"])


@pytest.mark.parametrize(
    ("name", "address", "said"),
    [
        ("../birch", "10.0.0.3", "not a name for a node"),
        ("", "10.0.0.3", "not a name for a node"),
        ("b" * 65, "10.0.0.3", "not a name for a node"),
        ("birch", "10.0.0.3:6379", "neither an IP address nor a host name"),
        ("birch", "a b", "neither an IP address nor a host name"),
        ("alder", "10.0.0.3", "already exists"),
    ],
)
def test_wrong_names_and_existing_files_are_refused(
    tmp_path: Path, name: str, address: str, said: str
) -> None:
    make_authority(tmp_path, days=1)
    make_node(tmp_path, "alder", ["10.0.0.2"], days=1)
    with pytest.raises(JobError, match=said):
        make_node(tmp_path, name, [address], days=1)
    with pytest.raises(JobError, match="there is no readable authority"):
        make_node(tmp_path / "nowhere", "birch", ["10.0.0.3"], days=1)
    with pytest.raises(JobError, match="already exists"):
        make_authority(tmp_path, days=1)


def test_a_removed_key_is_not_replaced_by_another(tmp_path: Path) -> None:
    """No node would accept certificates that another key signs."""
    make_authority(tmp_path, days=1)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(JobError, match="ca.crt already exists"):
        make_authority(tmp_path, days=1)
    assert not (tmp_path / "ca.key").exists()
    make_authority(tmp_path / "other", days=1)
    (tmp_path / "other" / "ca.key").rename(tmp_path / "ca.key")
    with pytest.raises(JobError, match="is not the key of"):
        make_node(tmp_path, "alder", ["10.0.0.2"], days=1)
