"""Sealing a silo's state to one other silo, which was away and comes back into the run.

The returning silo makes fresh ML-KEM-768 and X25519 keys and signs them with its identity. Another
silo signs the state for this request and seals it to these keys by HPKE (RFC 9180). The driver
carries ciphertext: an optimizer's state would tell it more than the model. It cannot make up a
state either: planted weights could separate single records (Fowl et al., ICLR 2022).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from pydantic import Field
from pydantic.dataclasses import dataclass

from blindsum.he.exchange import STRICT, RunName, SiloName
from blindsum.he.identity import PUBLIC_BYTES, SIGNATURE_BYTES, Identity, verify
from blindsum.platform.errors import KeyRefused

_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
_HEAD = PUBLIC_BYTES + SIGNATURE_BYTES
Bytes = Annotated[bytes, Field(max_length=65_536)]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class StateRequest:
    """A returning silo's request for the present state, signed by its identity. Public.

    Attributes:
        identity: Ed25519 and ML-DSA-65, 1,984 bytes.
        mlkem, x25519: fresh keys, 1,184 and 32 bytes.
    """

    run: RunName
    silo: SiloName
    identity: Bytes
    mlkem: Bytes
    x25519: Bytes
    signature: Bytes = b""

    def signed_content(self) -> bytes:
        """Return the bytes that the identity signs."""
        parts = [self.run, self.silo, self.identity.hex(), self.mlkem.hex(), self.x25519.hex()]
        return json.dumps(["blindsum state request", *parts]).encode()


class Handover:
    """A returning silo's side: its keys exist as long as this object."""

    def __init__(self, run: str, silo: str, identity: Identity) -> None:
        self._mlkem = mlkem.MLKEM768PrivateKey.generate()
        self._x25519 = x25519.X25519PrivateKey.generate()
        unsigned = StateRequest(
            run=run,
            silo=silo,
            identity=identity.public,
            mlkem=self._mlkem.public_key().public_bytes_raw(),
            x25519=self._x25519.public_key().public_bytes_raw(),
        )
        self.request = replace(unsigned, signature=identity.sign(unsigned.signed_content()))

    def open(self, sealed: bytes, is_of_the_run: Callable[[bytes], bool]) -> bytes:
        """Return what a silo of the run sealed to this request.

        Args:
            is_of_the_run: whether a public identity is that of another silo of the run.

        Raises:
            KeyRefused: nothing was sealed to it, or not by such a silo.
        """
        key = hpke.MLKEM768X25519PrivateKey(self._mlkem, self._x25519)
        try:
            opened: bytes = _SUITE.decrypt(sealed, key, _info(self.request))
        except (InvalidTag, ValueError):
            raise KeyRefused(
                "the state was not sealed to this silo for this run", "Start the job again."
            ) from None
        identity, signature = opened[:PUBLIC_BYTES], opened[PUBLIC_BYTES:_HEAD]
        content = opened[_HEAD:]
        verify(identity, signature, _signed(self.request, content), "state")
        if not is_of_the_run(identity):
            raise KeyRefused("the state is signed by somebody who is not a silo of this run")
        return content


def seal_to(request: StateRequest, content: bytes, identity: Identity) -> bytes:
    """Sign content for a request, and seal it to it.

    Raises:
        KeyRefused: the request is not signed by the identity that it names, or has no valid keys.
    """
    verify(request.identity, request.signature, request.signed_content(), "request for the state")
    try:
        receiver = hpke.MLKEM768X25519PublicKey(
            mlkem.MLKEM768PublicKey.from_public_bytes(request.mlkem),
            x25519.X25519PublicKey.from_public_bytes(request.x25519),
        )
        signature = identity.sign(_signed(request, content))
        return _SUITE.encrypt(identity.public + signature + content, receiver, _info(request))
    except ValueError:
        raise KeyRefused("the request for the state has no valid keys") from None


def _signed(request: StateRequest, content: bytes) -> bytes:
    return _info(request) + content


def _info(request: StateRequest) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(request.signed_content())
    return b"blindsum state 1" + digest.finalize()
