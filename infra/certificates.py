"""Certificates for Ray's TLS: one authority for a cluster, and one certificate for each node.

With RAY_USE_TLS=1, Ray requires a certificate by the authority from both sides of every connection,
and the server's must name the address that the client connects to. Certificates are X.509 (RFC
5280), with keys on P-256, because gRPC's BoringSSL does not accept Ed25519. The TLS key exchange is
classical, but the silos' messages inside it are also sealed against quantum computers.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from blindsum.platform.errors import JobError

CA_CERTIFICATE, CA_KEY = "ca.crt", "ca.key"
NODE_CERTIFICATE, NODE_KEY = "tls.crt", "tls.key"
_NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_SKEW = datetime.timedelta(days=2)
"""Allowance for clocks that differ. One that is set to local time in place of UTC is wrong by up to
14 hours, and a new certificate must not have to wait for it."""


def make_authority(folder: Path, days: int) -> None:
    """Write a new authority's certificate and key (mode 0600) into a folder.

    Raises:
        JobError: the folder already has one, or cannot be written.
    """
    for path in (folder / CA_KEY, folder / CA_CERTIFICATE):
        if path.exists():  # nobody would accept signatures by a new key beside an old certificate
            raise JobError(f"{path} already exists", "Name another folder, or remove the file.")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Blindsum cluster")])
    built = (
        _builder(name, name, key.public_key(), key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
    )
    _write(folder / CA_KEY, _private(key))
    _write(folder / CA_CERTIFICATE, _public(built.sign(key, hashes.SHA256())))


def make_node(folder: Path, name: str, addresses: Sequence[str], days: int) -> Path:
    """Write a node's certificate, its key (mode 0600) and the authority's certificate into
    folder/name, and return that folder.

    The certificate is valid at most as long as the authority's.

    Args:
        folder: the authority's folder.
        addresses: IP addresses and host names at which others reach the node. 127.0.0.1 and
            localhost are added, because a node's processes connect to each other.

    Raises:
        JobError: the authority is missing or cannot be read, the name or an address is not valid,
            or the files already exist.
    """
    authority, key = _authority(folder)
    if not _NAME.fullmatch(name) or len(name) > 64:
        raise JobError(
            f"{name!r} is not a name for a node", "Use at most 64 letters, digits, dots, hyphens."
        )
    own = ec.generate_private_key(ec.SECP256R1())
    names = [_general_name(one) for one in dict.fromkeys([*addresses, "127.0.0.1", "localhost"])]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    built = _builder(
        subject,
        authority.subject,
        own.public_key(),
        key.public_key(),
        days,
        authority.not_valid_after_utc,
    )
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    built = _leaf(built, names, both)
    made = folder / name
    _write(made / NODE_KEY, _private(own))
    _write(made / NODE_CERTIFICATE, _public(built.sign(key, hashes.SHA256())))
    _write(made / CA_CERTIFICATE, _public(authority))
    return made


def make_request(folder: Path, name: str) -> str:
    """Write a new key (mode 0600) into a folder and return a certificate request (PKCS #10, PEM).

    An earlier key stays in use until `keep_certificate` takes up the new one.

    Raises:
        JobError: the folder cannot be written.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    fresh = folder / f"{NODE_KEY}.new"
    fresh.unlink(missing_ok=True)
    _write(fresh, _private(key))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    built = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def keep_certificate(folder: Path, certificate: str, authority: str) -> None:
    """Take up a certificate for the key that `make_request` wrote.

    Raises:
        JobError: it is not for that key, or the folder cannot be written.
    """
    key = serialization.load_pem_private_key((folder / f"{NODE_KEY}.new").read_bytes(), None)
    try:
        of = x509.load_pem_x509_certificate(certificate.encode()).public_key()
        x509.load_pem_x509_certificate(authority.encode())
    except ValueError:
        raise JobError("the coordinator sent something that is not a certificate") from None
    if of != key.public_key():
        raise JobError("the coordinator sent a certificate for another key")
    for name, content in ((NODE_CERTIFICATE, certificate), (CA_CERTIFICATE, authority)):
        (folder / f"{name}.new").unlink(missing_ok=True)
        _write(folder / f"{name}.new", content.encode())
    for name in (NODE_KEY, NODE_CERTIFICATE, CA_CERTIFICATE):
        os.replace(folder / f"{name}.new", folder / name)


def sign_request(folder: Path, request: str, name: str, days: int) -> tuple[str, str]:
    """Return a client's certificate for a request, and the authority's certificate, both PEM.

    Args:
        folder: the authority's folder. If its ca.crt has further certificates after the
            authority's own, such as the one of its predecessor, they are returned too.
        name: the host name in it; nothing but the key is taken from the request.

    Raises:
        JobError: the authority cannot be read, or the request is not valid.
    """
    authority, key = _authority(folder)
    try:
        asked = x509.load_pem_x509_csr(request.encode())
        of = asked.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise JobError("the certificate request is not valid") from None
    if not isinstance(of, ec.EllipticCurvePublicKey) or not asked.is_signature_valid:
        raise JobError("the certificate request is not valid")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    built = _builder(
        subject, authority.subject, of, key.public_key(), days, authority.not_valid_after_utc
    )
    signed = _leaf(built, [x509.DNSName(name)], [ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = _public(signed.sign(key, hashes.SHA256())).decode()
    return certificate, (folder / CA_CERTIFICATE).read_text(encoding="ascii")


def days_left(folder: Path) -> float:
    """Return for how many days the certificate in a folder is still valid."""
    found = x509.load_pem_x509_certificate((folder / NODE_CERTIFICATE).read_bytes())
    left = found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return left / datetime.timedelta(days=1)


def renewal_due(folder: Path) -> bool:
    """Return whether less than a third of the lifetime of the certificate in a folder is left."""
    found = x509.load_pem_x509_certificate((folder / NODE_CERTIFICATE).read_bytes())
    end = found.not_valid_after_utc
    return 3 * (end - datetime.datetime.now(datetime.UTC)) < end - found.not_valid_before_utc


def environment(folder: Path) -> dict[str, str]:
    """Return the environment variables with which Ray's processes use a node's certificate."""
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str((folder / NODE_CERTIFICATE).absolute()),
        "RAY_TLS_SERVER_KEY": str((folder / NODE_KEY).absolute()),
        "RAY_TLS_CA_CERT": str((folder / CA_CERTIFICATE).absolute()),
    }


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return the authority in a folder. Raises JobError if there is none, or it does not fit."""
    try:
        authority = x509.load_pem_x509_certificate((folder / CA_CERTIFICATE).read_bytes())
        key = serialization.load_pem_private_key((folder / CA_KEY).read_bytes(), None)
    except (OSError, ValueError, TypeError):
        raise JobError(
            f"there is no readable authority in {folder}",
            f"Create one first: blindsum certificates authority {folder}",
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or (
        key.public_key() != authority.public_key()
    ):
        raise JobError(
            f"{folder / CA_KEY} is not the key of {folder / CA_CERTIFICATE}",
            "Restore both files from a backup.",
        )
    return authority, key


def _leaf(
    built: x509.CertificateBuilder,
    names: Sequence[x509.GeneralName],
    uses: list[x509.ObjectIdentifier],
) -> x509.CertificateBuilder:
    """Add what a certificate that is no authority's must say."""
    return (
        built.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    of: ec.EllipticCurvePublicKey,
    by: ec.EllipticCurvePublicKey,
    days: int,
    latest: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    end = now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(of)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(min(end, latest or end))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(of), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by), critical=False)
    )


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        pass
    if not _NAME.fullmatch(address):
        raise JobError(f"{address!r} is neither an IP address nor a host name")
    return x509.DNSName(address)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        with open(os.open(path, flags, 0o600), "wb") as file:
            file.write(content)
    except FileExistsError:
        raise JobError(f"{path} already exists", "Name another folder, or remove it.") from None
    except OSError as error:
        raise JobError(f"{path} cannot be written: {error.strerror}") from None
