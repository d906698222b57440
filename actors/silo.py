"""One data owner: its data, model, ledger and keys. A plain class; `SiloActor` is its shell.

Whatever a method returns is pickled out of the silo, so methods return messages from
`actors.messages`, signed frames of ciphertext, and public keys, and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from blindsum.actors.messages import ApplyReport, Inspection, Release, SiloSpec, TrainReport
from blindsum.he.cipher import Cipher, CkksCipher, PlainCipher, SecretKey
from blindsum.he.keys import Identity, Introduction, KeyCeremony, Sealed, confirmation, transcript
from blindsum.he.packing import join_counts, pack, quantise, split_counts, unpack
from blindsum.he.parameters import Parameters
from blindsum.he.wire import Exchange, read_total, write_upload
from blindsum.platform import metrics
from blindsum.platform.data import SiloData, load_data
from blindsum.platform.errors import (
    EncryptionError,
    FederationError,
    KeyRefused,
    LedgerError,
    guarded,
)
from blindsum.platform.features import feature_count
from blindsum.platform.ledger import Ledger, Lifetime
from blindsum.platform.models import (
    Vector,
    build_model,
    digest,
    get_parameters,
    initial_digest,
    set_parameters,
)
from blindsum.platform.paths import import_from, require_usable, resolve, state_folder
from blindsum.platform.privacy import Accountant, plan
from blindsum.platform.random_source import cryptographic_generator, seeded_generator
from blindsum.platform.server_optimizer import ServerOptimizer
from blindsum.platform.training import LocalTrainer

PRECOMPUTED = 300
"""Rounds whose epsilon is computed at the start; later ones cost about 10 ms each."""


class Silo:
    """One silo in one run. Methods are called in the order they stand in."""

    def __init__(self, spec: SiloSpec) -> None:
        self.name = spec.name
        self._spec, self._job = spec, spec.job
        self._section = spec.job.silo(spec.name)
        self._identities: dict[str, bytes] = {}
        self._cipher: Cipher | None = None
        self._ledger: Ledger | None = None
        self._last_attempt = (0, 0)
        self._pending: Exchange | None = None
        self._pending_metrics: Exchange | None = None
        self._round = 0
        if spec.threads:
            torch.set_num_threads(spec.threads)

    @guarded
    def inspect(self) -> Inspection:
        """Plan the spend, load the data, build the model. Writes nothing but rejected rows.

        Raises:
            DataError, ModelError, PrivacyError, LedgerError: this silo cannot take part.
        """
        job, section = self._job, self._section
        self._parameters = Parameters.derive(
            len(job.silos), job.encryption.bits, scheme=job.encryption.scheme
        )
        # All silos must have been told the same job: the key ceremony is bound to its digest.
        terms = f"{self._parameters.digest}\n{job.model_dump_json()}"
        self._terms = hashlib.sha256(terms.encode()).hexdigest()
        self._plan = plan(job, self.name)
        self._accountant = Accountant(self._plan) if self._plan else None
        self._state = state_folder(section)
        require_usable(self._state)
        import_from(self._spec.folder)
        self._data: SiloData = load_data(
            resolve(section.data, self._spec.folder), job.data, self._state / "rejected_rows.txt"
        )
        private = self._plan is not None
        self._model = build_model(
            job.model, feature_count(job.data.features), len(job.data.target.classes),
            seed=job.seed, private=private,
        )  # fmt: skip
        self._global: Vector = get_parameters(self._model)
        self._recent = {0: self._global}
        self._optimizer = ServerOptimizer(job.server, self._global.size)
        self._random = (
            cryptographic_generator() if private else seeded_generator(job.seed, self.name)
        )
        self._trainer = LocalTrainer(
            self._model, self._data.train, job.training, self._plan, self._random
        )
        if self._accountant and self._plan:
            # Ahead of the rounds: none of them should wait for a composition.
            for rounds in range(1, min(self._plan.rounds_within_budget, PRECOMPUTED) + 1):
                self._accountant.epsilon_after(rounds)
        ledger = self._state / "ledger.sqlite"
        lifetime = Lifetime(0, 0.0, 0.0)
        if ledger.exists():
            opened = Ledger(ledger, self.name)
            lifetime = opened.lifetime(self._data.fingerprint)
            opened.close()
        return Inspection(
            self.name, self._plan, self._global.size, initial_digest(self._model), str(ledger),
            lifetime,
        )  # fmt: skip

    @guarded
    def introduce(self) -> Introduction:
        """Open ledger and identity, and give this silo's public keys for this run.

        Raises:
            LedgerError, KeyRefused: the state folder cannot be used or trusted.
        """
        try:
            self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
            identity = Identity(self._state / "identity.pem")
        except OSError as error:
            raise LedgerError(
                f"the state folder {self._state} cannot be used ({os.strerror(error.errno or 0)})",
                "Check that the disk has room and the folder is writable, or set silos.state.",
            ) from None
        self._identity = identity
        self._ledger = Ledger(self._state / "ledger.sqlite", self.name)
        self._ceremony = KeyCeremony(self._spec.run, self.name, identity)
        return self._ceremony.introduction

    @guarded
    def make_key(self, introductions: tuple[Introduction, ...]) -> tuple[str, list[Sealed]]:
        """Make the run's secret key; returns its confirmation and a sealed copy per silo."""
        secret, sealed = self._ceremony.make(introductions, self._terms)
        return self._join(introductions, secret), sealed

    @guarded
    def open_key(self, introductions: tuple[Introduction, ...], sealed: Sealed) -> str:
        """Open the sealed key and return its confirmation.

        Raises:
            KeyRefused: it was not sealed to this silo in this ceremony.
        """
        secret = self._ceremony.open(introductions, self._terms, sealed)
        return self._join(introductions, secret)

    def _join(self, introductions: tuple[Introduction, ...], secret: SecretKey) -> str:
        """Take up the key, and reserve the whole plan before anything is trained."""
        if tuple(one.silo for one in introductions) != self._job.roster:
            raise KeyRefused("the ceremony's roster is not the job's", "Start the job again.")
        self._identities = {one.silo: one.identity for one in introductions}
        encrypted = self._parameters.scheme == "ckks"
        self._cipher = CkksCipher(self._parameters, secret) if encrypted else PlainCipher()
        if self._ledger and self._plan:
            self._ledger.reserve(self._spec.run, self._data.fingerprint, self._plan)
        elif self._ledger:
            self._ledger.unprotected(self._spec.run, self._data.fingerprint)
        return confirmation(secret, transcript(introductions, self._terms))

    @guarded
    @ray.method(num_returns=2)
    def train(self, exchange: Exchange) -> tuple[TrainReport, pa.Buffer]:
        """Charge the ledger, train, and give the encrypted, signed update.

        Raises:
            BudgetExceeded: the charge would pass the budget; nothing was trained.
            LedgerError: the charge could not be committed; nothing was trained.
            FederationError: the exchange is not the next one of this job.
        """
        self._expect(exchange, "update", self._global.size)
        if (exchange.round, exchange.attempt) <= self._last_attempt:
            raise FederationError(
                f"attempt {exchange.attempt} of round {exchange.round} was announced again",
                "An update is never made or sent twice.",
            )
        if exchange.round != self._round + 1:
            raise FederationError(f"round {exchange.round} was announced after {self._round}")
        self._last_attempt = (exchange.round, exchange.attempt)
        started = time.perf_counter()
        epsilon = self._charge(exchange)
        charged = time.perf_counter()
        update = self._trainer.train(self._global)
        trained = time.perf_counter()
        bound = self._job.encryption.range
        quantised = quantise(update, bound, self._parameters, self._random)
        self._saturated = quantised.saturated
        upload = self._encrypt(exchange, quantised.integers)
        self._pending = exchange
        report = TrainReport(
            self.name, epsilon, upload.size,
            charged - started, trained - charged, time.perf_counter() - trained,
        )  # fmt: skip
        return report, upload

    @guarded
    @ray.method(num_returns=2)
    def apply(self, exchange: Exchange, total: pa.Buffer) -> tuple[ApplyReport, pa.Buffer]:
        """Decrypt the total, move to the next model, and give its encrypted metrics.

        Every silo of the roster must have signed an upload for this exchange. That the
        ciphertext is their sum is the aggregator's word, but for the check of its noise.

        Raises:
            UploadRefused: the signed headers are not exactly the roster's.
            EncryptionError: the decrypted total does not lie on reachable integers; this
                silo's key is given up with it.
        """
        if exchange != self._pending:
            raise FederationError("a total came for an exchange this silo did not send to")
        self._pending = None
        started = time.perf_counter()
        summed = self._decrypt(exchange, total)
        decrypted = time.perf_counter()
        unit = self._job.encryption.range / self._parameters.limit
        self._global = self._optimizer.apply(
            self._global, summed * unit / float(len(exchange.roster))
        )
        self._round = exchange.round
        self._recent = {self._round - 1: self._recent[self._round - 1], self._round: self._global}
        set_parameters(self._model, self._global)
        model_digest = digest(self._global)
        counts = metrics.count(
            self._model, self._data.test, len(self._job.data.target.classes),
            self._saturated, self._data.dropped,
        )  # fmt: skip
        limbs = split_counts(counts, self._parameters)
        # One figure for applying and evaluating: evaluation alone would tell the fold's size.
        applied = time.perf_counter()
        self._pending_metrics = metrics_exchange(exchange, limbs.size)
        upload = self._encrypt(self._pending_metrics, limbs)
        report = ApplyReport(
            self.name, model_digest, upload.size, decrypted - started, applied - decrypted,
            time.perf_counter() - applied,
        )  # fmt: skip
        return report, upload

    @guarded
    def read_metrics(self, exchange: Exchange, total: pa.Buffer) -> metrics.Metrics:
        """Decrypt the consortium's metrics, once for each round that was applied.

        Raises:
            FederationError: this is not the metrics total that this silo sent to.
        """
        if exchange != self._pending_metrics:
            raise FederationError("a metrics total came that this silo did not send to")
        self._pending_metrics = None
        counts = join_counts(self._decrypt(exchange, total), self._parameters)
        return metrics.summarise(counts, self._global.size * len(exchange.roster))

    @guarded
    @ray.method(concurrency_group="release")
    def release(self, round: int) -> Release | None:
        """The model after that round, of the two newest: a release under the charged budget.

        Answers at any time, in a thread of its own: an interrupted run must get its last
        model from silos that are deep in their training.
        """
        vector = self._recent.get(round)
        return None if vector is None else Release(round, vector)

    def _charge(self, exchange: Exchange) -> float | None:
        if self._ledger is None:
            raise LedgerError("training was asked for before the ledger was opened")
        if self._accountant is None:
            return None
        return self._ledger.charge(
            self._spec.run, exchange.round, exchange.attempt, self._accountant
        )

    def _expect(self, exchange: Exchange, purpose: str, values: int) -> None:
        """This silo's own policy: it takes part only in what its job file says."""
        expected = (self._spec.run, self._job.roster, self._parameters, purpose, values)
        got = (
            exchange.job, exchange.roster, exchange.parameters, exchange.purpose, exchange.values,
        )  # fmt: skip
        if got != expected:
            names = ("run", "roster", "parameters", "purpose", "size")
            wrong = next(n for n, a, b in zip(names, got, expected, strict=True) if a != b)
            raise FederationError(f"the announced {wrong} is not the one of this silo's job")

    def _encrypt(self, exchange: Exchange, integers: np.ndarray[Any, Any]) -> pa.Buffer:
        chunks = self._ready().encrypt(pack(integers, self._parameters))
        return write_upload(exchange, self.name, chunks, self._identity)

    def _decrypt(self, exchange: Exchange, total: pa.Buffer) -> np.ndarray[Any, Any]:
        chunks = read_total(total, exchange, self._identities)
        try:
            packed = self._ready().decrypt(chunks)
            return unpack(packed, exchange.values, self._parameters)
        except EncryptionError:
            # Each refusal tells an active aggregator a little about the key: it gets one.
            self._cipher = None
            raise

    def _ready(self) -> Cipher:
        if self._cipher is None:
            raise KeyRefused(
                "this silo holds no key: the ceremony has not been, or a refused total ended it",
                "Start the job again.",
            )
        return self._cipher


def metrics_exchange(update: Exchange, values: int) -> Exchange:
    """The metrics exchange that follows an update's."""
    return Exchange(
        update.job, update.round, update.attempt, "metrics", update.roster, values,
        update.parameters,
    )  # fmt: skip


def as_actor(silo: type[Silo]) -> Any:
    """The Ray actor class of a silo class.

    `release` has a thread of its own and may overtake: it must answer while the silo trains,
    and while calls before it wait for a total that never comes. The others run one at a time,
    each started by the arrival of what it needs.
    """
    options: dict[str, Any] = {
        "concurrency_groups": {"release": 1},
        "allow_out_of_order_execution": True,
    }
    return ray.remote(**options)(silo)


SiloActor = as_actor(Silo)
