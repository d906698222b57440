"""A session between an agent and the coordinator, authentic by their pinned identities.

    agent          Hello     fresh ML-KEM-768 and X25519 keys, signed by the silo's identity
    coordinator    Welcome   a secret sealed to these keys, signed by the coordinator's identity

Both signatures are Ed25519 and ML-DSA-65 together, sealing is HPKE (RFC 9180). From the secret and
both messages HKDF-SHA256 (RFC 5869) derives a key for each direction, under which every later body
is encrypted with ChaCha20-Poly1305 (RFC 8439), with the direction's counter as nonce, and with
method and path as associated data. Whoever ends TLS in between, such as a company's inspecting
proxy, sees sizes and times, and can neither read, alter, replay nor invent a message.

A signature on every message would prove no more to the receiver, and costs 0.7 ms to make and
0.3 ms to check, three times a round and silo.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from blindsum.actors.separate.messages import PROTOCOL, Hello, Welcome, packed, unpacked
from blindsum.he.identity import SIGNATURE_BYTES, Identity, fingerprint, verify
from blindsum.platform.errors import KeyRefused

_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
_INFO = b"blindsum session 1"
_COUNTER = struct.Struct("<Q")

_REMEMBERED = 1024
"""How far a request may be overtaken by later ones; parts are in flight together."""


class Seal:
    """One direction of a session: it seals what it sends, or opens what the other side sealed.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._lock = threading.Lock()
        self._sent = self._highest = 0
        self._seen: set[int] = set()

    def close(self, content: bytes, about: bytes) -> bytes:
        """Encrypt a body.

        Args:
            about: method and path, which the other side must see unchanged.
        """
        with self._lock:
            self._sent += 1
            number = self._sent
        counter = _COUNTER.pack(number)
        return counter + self._cipher.encrypt(bytes(4) + counter, content, about)

    def open(self, body: bytes, about: bytes) -> bytes:
        """Decrypt a body.

        Raises:
            KeyRefused: it was not sealed in this session for this method and path, was altered, or
                came before.
        """
        counter = body[: _COUNTER.size]
        try:
            content = self._cipher.decrypt(
                bytes(4) + counter, memoryview(body)[_COUNTER.size :], about
            )
        except (InvalidTag, ValueError):
            raise KeyRefused("received a message that was not sealed in this session") from None
        (number,) = _COUNTER.unpack(counter)
        with self._lock:
            if number in self._seen or number <= self._highest - _REMEMBERED:
                raise KeyRefused("received a message a second time")
            self._seen.add(number)
            if number > self._highest:
                self._highest = number
                self._seen = {one for one in self._seen if one > number - _REMEMBERED}
        return content


class Session:
    """An established session, from one side.

    Attributes:
        name: what requests call it, 32 hex digits.
        peer_instance: the other side's instance: a new one means that it was started again.
    """

    def __init__(self, name: str, peer_instance: str, sending: bytes, receiving: bytes) -> None:
        self.name, self.peer_instance = name, peer_instance
        self._sending, self._receiving = Seal(sending), Seal(receiving)

    def close(self, content: bytes, method: str, path: str) -> bytes:
        """Encrypt a body for the other side."""
        return self._sending.close(content, self._about(method, path))

    def open(self, body: bytes, method: str, path: str) -> bytes:
        """Decrypt a body of the other side. Raises KeyRefused, as `Seal.open`."""
        return self._receiving.open(body, self._about(method, path))

    def _about(self, method: str, path: str) -> bytes:
        return f"{self.name} {method} {path}".encode()


class Asking:
    """An agent's side of the beginning of a session.

    Args:
        coordinator: the pinned fingerprint of the coordinator's identity.
        instance: the agent's, 32 hex digits.
    """

    def __init__(
        self, silo: str, identity: Identity, coordinator: str, version: str, instance: str
    ) -> None:
        self._mlkem = mlkem.MLKEM768PrivateKey.generate()
        self._x25519 = x25519.X25519PrivateKey.generate()
        self._coordinator = coordinator
        hello = Hello(
            silo=silo,
            version=version,
            protocol=PROTOCOL,
            instance=instance,
            coordinator=coordinator,
            mlkem=self._mlkem.public_key().public_bytes_raw(),
            x25519=self._x25519.public_key().public_bytes_raw(),
        )
        self.hello = signed(packed(hello), identity)

    def welcomed(self, body: bytes, identity: bytes) -> tuple[Session, Welcome]:
        """Return the session that the coordinator granted.

        Args:
            identity: the coordinator's public identity, from the enrolment.

        Raises:
            KeyRefused: the coordinator with the pinned identity did not answer this hello.
        """
        if fingerprint(identity) != self._coordinator:
            raise KeyRefused("the coordinator's identity is not the one that was enrolled with")
        content = opened(body, identity, "the coordinator's welcome")
        welcome, _ = unpacked(content, Welcome)
        if welcome.hello != hashlib.sha256(self.hello).hexdigest():
            raise KeyRefused("the coordinator answered another hello than this agent's")
        key = hpke.MLKEM768X25519PrivateKey(self._mlkem, self._x25519)
        try:
            secret = _SUITE.decrypt(welcome.sealed, key, _INFO)
        except (InvalidTag, ValueError):
            raise KeyRefused("the session's secret was not sealed to this agent") from None
        up, down = _keys(secret, self.hello, welcome)
        return Session(welcome.session, welcome.instance, up, down), welcome


def read_hello(body: bytes) -> Hello:
    """Return the hello in a signed body, without a check of its signature.

    Raises:
        FederationError: it is malformed.
    """
    return unpacked(body[SIGNATURE_BYTES:], Hello)[0]


def grant(
    body: bytes, hello: Hello, silo: bytes, identity: Identity, version: str, instance: str
) -> tuple[Session, bytes]:
    """Return the coordinator's side of a new session, and the welcome for the agent.

    Args:
        body: the signed hello.
        silo: the enrolled public identity of that silo.
        instance: the coordinator's, 32 hex digits.

    Raises:
        KeyRefused: the hello is not signed by that silo, or not meant for this coordinator.
    """
    opened(body, silo, f"hello of silo '{hello.silo}'")
    if hello.coordinator != fingerprint(identity.public):
        raise KeyRefused("the hello is for another coordinator")
    secret = os.urandom(32)
    try:
        key = hpke.MLKEM768X25519PublicKey(
            mlkem.MLKEM768PublicKey.from_public_bytes(hello.mlkem),
            x25519.X25519PublicKey.from_public_bytes(hello.x25519),
        )
        sealed = _SUITE.encrypt(secret, key, _INFO)
    except ValueError:
        raise KeyRefused("the hello's keys are not valid") from None
    welcome = Welcome(
        session=os.urandom(16).hex(),
        instance=instance,
        version=version,
        hello=hashlib.sha256(body).hexdigest(),
        sealed=sealed,
    )
    up, down = _keys(secret, body, welcome)
    session = Session(welcome.session, hello.instance, sending=down, receiving=up)
    return session, signed(packed(welcome), identity)


def signed(content: bytes, identity: Identity) -> bytes:
    """Return content with its signature ahead of it."""
    return identity.sign(_INFO + content) + content


def opened(body: bytes, identity: bytes, what: str) -> bytes:
    """Return the content of a signed body. Raises KeyRefused if the signature does not verify."""
    content = body[SIGNATURE_BYTES:]
    verify(identity, body[:SIGNATURE_BYTES], _INFO + content, what)
    return content


def _keys(secret: bytes, hello: bytes, welcome: Welcome) -> tuple[bytes, bytes]:
    """Return the keys of both directions, up and down, 32 bytes each."""
    salt = hashlib.sha256(hello + packed(welcome)).digest()
    both = HKDF(hashes.SHA256(), 64, salt=salt, info=_INFO).derive(secret)
    return both[:32], both[32:]
