"""Certificates for Ray's TLS: one authority for a cluster, one certificate for each node.

Ray asks both sides of every connection for a certificate of the authority (RAY_USE_TLS=1), and the called side's
must name the address it was called at. X.509 as in RFC 5280, keys on P-256: gRPC's BoringSSL takes no Ed25519. The
exchange of TLS keys is classical; what silos send through it is sealed after quantum computers too.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from blindsum.platform.errors import JobError

CA_CERTIFICATE, CA_KEY = "ca.crt", "ca.key"
NODE_CERTIFICATE, NODE_KEY = "tls.crt", "tls.key"
_NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_SKEW = datetime.timedelta(minutes=5)
"""Clocks of nodes differ a little."""


def make_authority(folder: Path, days: int) -> None:
    """Write a new authority's certificate and key (mode 0600) into a folder.

    Raises:
        JobError: one is there, or it cannot be written.
    """
    for path in (folder / CA_KEY, folder / CA_CERTIFICATE):
        if path.exists():  # a new key beside an old certificate would sign what nobody takes
            raise JobError(f"{path} is there already", "Name another folder, or remove it.")
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
    """Write a node's certificate, valid at most as long as the authority's, its key (mode 0600) and the authority's certificate into folder/name, and give
    that folder.

    Args:
        folder: of the authority.
        addresses: IP addresses and host names that others call the node by. 127.0.0.1 and localhost are
            added: a node's processes call each other.

    Raises:
        JobError: the authority is not there or cannot be read, a name or an address is none, or the files are
            there.
    """
    try:
        authority = x509.load_pem_x509_certificate((folder / CA_CERTIFICATE).read_bytes())
        key = serialization.load_pem_private_key((folder / CA_KEY).read_bytes(), None)
    except (OSError, ValueError, TypeError):
        raise JobError(
            f"there is no authority in {folder} that can be read",
            f"Make one first: blindsum certificates authority {folder}",
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or (
        key.public_key() != authority.public_key()
    ):
        raise JobError(f"{folder / CA_KEY} is not the key of {folder / CA_CERTIFICATE}")
    if not _NAME.fullmatch(name) or len(name) > 64:
        raise JobError(
            f"{name!r} is no name for a node", "At most 64 letters, digits, dots and hyphens."
        )
    own = ec.generate_private_key(ec.SECP256R1())
    names = [_general_name(one) for one in dict.fromkeys([*addresses, "127.0.0.1", "localhost"])]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    built = (
        _builder(
            subject,
            authority.subject,
            own.public_key(),
            key.public_key(),
            days,
            authority.not_valid_after_utc,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    made = folder / name
    _write(made / NODE_KEY, _private(own))
    _write(made / NODE_CERTIFICATE, _public(built.sign(key, hashes.SHA256())))
    _write(made / CA_CERTIFICATE, _public(authority))
    return made


def environment(folder: Path) -> dict[str, str]:
    """What makes Ray use a node's certificate, for every process of Ray on that node."""
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str((folder / NODE_CERTIFICATE).absolute()),
        "RAY_TLS_SERVER_KEY": str((folder / NODE_KEY).absolute()),
        "RAY_TLS_CA_CERT": str((folder / CA_CERTIFICATE).absolute()),
    }


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
        raise JobError(f"{path} is there already", "Name another folder, or remove it.") from None
    except OSError as error:
        raise JobError(f"{path} cannot be written: {error.strerror}") from None
