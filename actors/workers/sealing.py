"""The keys under which a silo and one of its workers seal what they tell each other in one run.

The worker makes fresh ML-KEM-768 and X25519 keys. The silo draws two keys of ChaCha20-Poly1305, one
for each direction, and seals them to these by HPKE (RFC 9180). So the keys lie in no message, and
neither do they in what Ray stores of a call. Every message is bound to its place in the order of
calls (`blindsum.actors.separate.session.Seal`): none is taken twice, or for another.

This protects against whoever reads Ray's memory or files. A process that can call the silo's
workers runs code in the silo's own Ray, and is trusted as the silo is.
"""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

from blindsum.actors.separate.session import Seal
from blindsum.actors.workers.parcels import Parcel, packed, unpacked
from blindsum.platform.errors import KeyRefused

_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
_INFO = b"blindsum worker 1"
_X25519_BYTES, _KEY_BYTES = 32, 32


class Sealed:
    """One side of a silo's exchange with one worker.

    Args:
        sending, receiving: keys of 32 bytes.
    """

    def __init__(self, sending: bytes, receiving: bytes) -> None:
        self._sending, self._receiving = Seal(sending), Seal(receiving)
        self._sent = self._received = 0

    def close(self, parcel: Parcel) -> bytes:
        """Seal the next parcel to the other side."""
        self._sent += 1
        return self._sending.close(packed(parcel), _place(self._sent))

    def open(self, content: bytes) -> Parcel:
        """Open the other side's next parcel.

        Raises:
            KeyRefused: it is not that.
        """
        self._received += 1
        return unpacked(self._receiving.open(content, _place(self._received)))


def _place(number: int) -> bytes:
    return number.to_bytes(8, "little")


class Receiver:
    """A worker's keys, to which its silo seals those of their exchange."""

    def __init__(self) -> None:
        self._mlkem = mlkem.MLKEM768PrivateKey.generate()
        self._x25519 = x25519.X25519PrivateKey.generate()

    @property
    def public(self) -> bytes:
        """The public keys, 1,216 bytes."""
        return (
            self._mlkem.public_key().public_bytes_raw()
            + self._x25519.public_key().public_bytes_raw()
        )

    def take(self, sealed: bytes) -> Sealed:
        """Return the worker's side of the exchange.

        Raises:
            KeyRefused: nothing was sealed to these keys.
        """
        key = hpke.MLKEM768X25519PrivateKey(self._mlkem, self._x25519)
        try:
            keys: bytes = _SUITE.decrypt(sealed, key, _INFO)
        except (InvalidTag, ValueError):
            raise KeyRefused("received keys that were not sealed to this worker") from None
        return Sealed(keys[_KEY_BYTES:], keys[:_KEY_BYTES])


def sealed_to(public: bytes) -> tuple[Sealed, bytes]:
    """Return the silo's side of a new exchange with a worker, and its keys, sealed to the worker.

    Raises:
        KeyRefused: these are no public keys.
    """
    keys = secrets.token_bytes(2 * _KEY_BYTES)
    try:
        receiver = hpke.MLKEM768X25519PublicKey(
            mlkem.MLKEM768PublicKey.from_public_bytes(public[:-_X25519_BYTES]),
            x25519.X25519PublicKey.from_public_bytes(public[-_X25519_BYTES:]),
        )
    except ValueError:
        raise KeyRefused("a worker's public keys are not valid") from None
    return Sealed(keys[:_KEY_BYTES], keys[_KEY_BYTES:]), _SUITE.encrypt(keys, receiver, _INFO)
