"""Recover the secret key from CKKS decryptions that are published with full precision.

Li and Micciancio, "On the security of homomorphic encryption on approximate numbers", EUROCRYPT
2021, section 3. A ciphertext (c0, c1) decrypts to m = c0 + c1 s mod p. Anyone who learns m itself,
rather than a rounded value, can solve for s. Decoded real vectors are the real parts of the slots:
encoding twice the real part gives m(X) + m(1/X), and two such vectors of full length determine s,
one pair of coefficients at a time, in the number-theoretic transform. So an aggregator that sees
two decrypted sums can open every silo's upload.

`usual` attacks the common design: `ts.ckks_vector`, one key for all silos, N = 8192, and float64
sums returned to the aggregator. `exact` tries the same on Blindsum, with more than its aggregator
ever sees: the rounded integers of a sum before they are unmasked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import tenseal as ts
import tenseal.sealapi as seal

from blindsum.he.cipher import CkksAdder, CkksCipher, generate_secret_key
from blindsum.he.coefficients import Coefficients, make_context, read_words
from blindsum.he.masks import MaskStream
from blindsum.he.parameters import PRIME, RING_DEGREE, Parameters

DEGREE, SCALE = 8192, 2.0**40


@dataclass(frozen=True)
class Recovered:
    """The share of the key's coefficients that was recovered, and the seconds spent solving."""

    share: float
    seconds: float


def usual(silos: int = 3, seed: int = 0) -> Recovered:
    """Recover the shared key from two published sums of plain TenSEAL vectors."""
    random = np.random.default_rng(seed)
    context = ts.context(ts.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=[60, 40, 40, 60])
    context.global_scale = SCALE
    public = context.copy()
    public.make_context_public()  # what the aggregator holds
    sums = []
    for _ in range(2):
        uploads = [
            ts.ckks_vector(context, random.normal(0, 0.01, DEGREE // 2).tolist()).serialize()
            for _ in range(silos)
        ]
        total = ts.ckks_vector_from(public, uploads[0])
        for upload in uploads[1:]:
            total = total + ts.ckks_vector_from(public, upload)
        sums.append(total)
    published = [np.array(ts.ckks_vector_from(context, s.serialize()).decrypt()) for s in sums]
    started = time.perf_counter()
    found = _solve(public.seal_context().data, [s.ciphertext()[0] for s in sums], published)
    seconds = time.perf_counter() - started
    key = context.secret_key().data.data().data
    true = np.array([key(i) for i in range(DEGREE)], dtype=object)
    return Recovered(float(np.mean(found == true)), seconds)


def _solve(context: Any, ciphertexts: list[Any], published: list[np.ndarray[Any, Any]]) -> Any:
    """Return the key's coefficients mod the first prime, from two sums and their decryptions."""
    prime = int(context.first_context_data().parms().coeff_modulus()[0].value())
    encoder, known, parts = seal.CKKSEncoder(context), [], []
    for ciphertext, decrypted in zip(ciphertexts, published, strict=True):
        plain = seal.Plaintext()
        doubled = (2 * decrypted).tolist()
        encoder.encode(doubled, ciphertext.parms_id(), ciphertext.scale, plain)
        known.append(_integers(plain.data, 0))
        words = ciphertext.coeff_modulus_size() * DEGREE
        parts.append([_integers(ciphertext.__getitem__, j * words) for j in (0, 1)])
    (a0, a1), (b0, b1) = parts
    half = DEGREE // 2
    a, b, c, d = a1[:half], a1[half:][::-1], b1[:half], b1[half:][::-1]
    e = (known[0][:half] - a0[:half] - a0[half:][::-1]) % prime
    f = (known[1][:half] - b0[:half] - b0[half:][::-1]) % prime
    inverse = np.array([pow(int(x), -1, prime) for x in (a * d - b * c) % prime], dtype=object)
    first, second = (e * d - b * f) * inverse % prime, (a * f - e * c) * inverse % prime
    return np.concatenate([first, second[::-1]])


def _integers(at: Any, start: int) -> Any:
    return np.array([at(start + i) for i in range(DEGREE)], dtype=object)


def exact(silos: int = 3, seed: int = 0) -> Recovered:
    """Try the same on a Blindsum sum: rounded integers of all coefficients, so one sum would
    suffice."""
    parameters = Parameters.derive(silos)
    content = generate_secret_key()
    cipher, adder = CkksCipher(parameters, content), CkksAdder(parameters)
    random = np.random.default_rng(seed)
    reach = 1 << (parameters.real_bits - 1)
    for _ in range(silos):
        masked = random.integers(-reach, reach, RING_DEGREE)  # uniform, like a masked upload
        bare = MaskStream(parameters, RING_DEGREE, [], [])
        adder.add(0, cipher.encrypt(masked, bare), RING_DEGREE)
    body = adder.total(0, RING_DEGREE)
    rounded = cipher.decrypt(body, RING_DEGREE)
    words = parameters.words
    first = read_words(body[: RING_DEGREE * words.first], words.first)
    second = read_words(body[RING_DEGREE * words.first :], words.second)
    started = time.perf_counter()
    product = (rounded.astype(object) * parameters.scale - first) % PRIME
    coefficients = Coefficients(make_context())

    def transformed(polynomial: Any) -> Any:
        ntt = coefficients.of_second(polynomial.astype(np.uint64))
        return coefficients.polynomials(ntt)[1].astype(object)

    inverses = np.array([pow(int(one), -1, PRIME) for one in transformed(second)], dtype=object)
    found = transformed(product) * inverses % PRIME
    seconds = time.perf_counter() - started
    key = coefficients.load_key(content.content).data().data
    true = np.array([key(i) for i in range(RING_DEGREE)], dtype=object)
    return Recovered(float(np.mean(found == true)), seconds)
