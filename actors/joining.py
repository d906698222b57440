"""How a silo joins a run: it checks everything, takes part in the key ceremony, and after it was
away takes over the state of the others. `blindsum.actors.silo.Silo` adds the rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import torch

from blindsum.actors.admission import Admission
from blindsum.actors.books import Books
from blindsum.actors.channel import Channel, RayChannel
from blindsum.actors.door import checked, checked_all, checked_round, checked_spec
from blindsum.actors.messages import SiloSpec
from blindsum.actors.prepared import PreparedSilo, prepare
from blindsum.actors.returning import state_for_another, take_over
from blindsum.actors.silo_messages import LONGEST_SENTENCE, Inspection
from blindsum.actors.silo_state import ModelState, SentUpdate, SiloState, require_allowed
from blindsum.actors.vault import Vault
from blindsum.actors.work import Work
from blindsum.he.exchange import Exchange
from blindsum.he.handover import Handover, StateRequest, seal_to
from blindsum.he.identity import fingerprint
from blindsum.he.keys import Agreement, Contribution, Introduction
from blindsum.platform.data.table import SiloData
from blindsum.platform.errors import (
    AggregatorLost,
    BlindsumError,
    FederationError,
    KeyRefused,
    guarded,
)
from blindsum.platform.training.average import of_model
from blindsum.platform.training.sums import SumsOptimizer


class JoiningSilo:
    """One silo in one run, up to its rounds.

    Args:
        owner_file: as `blindsum.actors.admission.Admission`.
        alone: whether it reads its whole table itself and needs no GPU, whatever the job gives it.
            Whoever checks a job on their own machine may be attached to a Ray of others.
    """

    def __init__(
        self, spec: SiloSpec, owner_file: str | None = None, *, alone: bool = False
    ) -> None:
        self._spec = spec = checked_spec(spec)
        self.name, self._job = spec.name, spec.job
        self._admission = Admission(spec, owner_file)
        self._alone = alone
        self._state, self._work = SiloState.STARTED, Work()
        self._prepared: PreparedSilo | None = None
        self._vault: Vault | None = None
        self._models: tuple[ModelState, ...] = ()  # the newest is last, after its predecessor
        self._announced = self._last_attempt = (0, 0)
        self._update: SentUpdate | None = None
        self._counts: Exchange | None = None
        self._handover: Handover | None = None
        if spec.threads:
            torch.set_num_threads(spec.threads)

    @guarded
    def inspect(self) -> Inspection:
        """Plan the spend, load the data and build the model. This spends nothing. The audit log
        notes the job before the table is read.

        Raises:
            CannotTakePart: this silo refuses, on a machine with an owner's file. The driver learns
                nothing more.
            ConsentError, DataError, ModelError, PrivacyError, LedgerError: the reason, elsewhere.
        """
        require_allowed("inspect", self._state)
        own = prepare(self._spec, self._admission, self._work.step, self._alone)
        books, initial = self._books, of_model(own.model, own.room)
        fingerprints = (own.data.fingerprint, *own.data.earlier)
        lifetime, last = books.inspect(own.dataset, fingerprints, own.plan)
        self._last_attempt = (last.round, last.attempt)
        own.policy.goes_on(last.round, last.roster)
        kept = {0: own.weights, **(own.checkpoints.rounds() if self._spec.resumed else {})}
        self._models = (own.model_state(0, initial.shared, initial, own.weights),)
        self._prepared, self._state = own, SiloState.PREPARED
        return Inspection(
            silo=self.name,
            plan=own.plan if self._job.private else None,
            parameters=own.values,
            frozen=own.frozen,
            sent=own.sent,
            model_digest=own.weights,
            ledger="" if own.owned else str(books.path),
            lifetime=None if own.owned else lifetime,
            kept=kept,
            charged=self._last_attempt,
            owned=own.owned,
            warnings=() if own.owned else own.data.concerns,
            clipping=own.trainer.says[:LONGEST_SENTENCE],
        )

    @property
    def data(self) -> SiloData:
        """This silo's data, for whoever owns this process. No other process can ask for it."""
        return self._own.data

    def note_refusal(self, error: BlindsumError) -> BlindsumError:
        """Note in the audit log why this silo refused; returns the error that leaves it."""
        books = self._admission.books
        if books and not isinstance(error, AggregatorLost):
            books.refuses(error, *self._announced, logged=self._admission.owner is None)
        return self._admission.outward(error, begun=bool(books and books.joined))

    @guarded
    def restore(self, round: int) -> str:
        """Return to the state after a round of the interrupted run; returns its digest.

        Raises:
            FederationError: the state after that round is missing, or this silo never joined the
                run.
        """
        require_allowed("restore", self._state)
        if checked_round(round):
            self._require_joined()
            self._models = (self._own.go_to(self._own.checkpoints.read(round)),)
        return self._model.digest

    @guarded
    def request_state(self) -> StateRequest:
        """Ask the other silos for the present state, after this silo was away.

        Raises:
            FederationError: this silo was not away: nothing but a resumed run is taken over.
        """
        require_allowed("request_state", self._state)
        if not self._spec.resumed:
            raise FederationError("this silo's run has just begun: it takes over no state")
        self._handover = Handover(self._spec.run, self.name, self._books.identity)
        return self._handover.request

    @guarded
    def seal_state(self, request: StateRequest) -> bytes:
        """Seal the present state to a silo of this run that comes back.

        Raises:
            KeyRefused: the request is not from a silo of the run, or is for another run.
        """
        request = checked(request, StateRequest)
        require_allowed("seal_state", self._state)
        if request.run != self._spec.run or not self._keys.knows(request.silo, request.identity):
            raise KeyRefused(f"the request for the state is not from a silo '{request.silo}' here")
        state = state_for_another(self._own, self._model)
        return seal_to(request, state, self._books.identity)

    @guarded
    def take_state(self, sealed: Sequence[pa.Buffer]) -> str:
        """Take over a state that another silo sealed to this one; returns its digest.

        Raises:
            KeyRefused: it was not sealed to this silo, or not by another silo of the run.
            FederationError: it is not a state that this run can have.
        """
        require_allowed("take_state", self._state)
        handover, self._handover = self._handover, None
        if handover is None:
            raise FederationError("received a state that this silo did not request")
        others = [silo for silo in self._job.silos if silo.name != self.name]
        pins = {silo.identity for silo in others if silo.identity}
        content = handover.open(
            b"".join(bytes(part) for part in sealed),
            lambda identity: fingerprint(identity) in pins or len(pins) < len(others),
        )
        self._models = (take_over(self._own, content),)
        return self._model.digest

    @guarded
    def forget(self) -> None:
        """Delete the checkpoints, after a completed run.

        Raises: FederationError, if this silo never joined the run.
        """
        require_allowed("forget", self._state)
        self._require_joined()
        self._own.checkpoints.drop()

    @guarded
    def introduce(self) -> Introduction:
        """Open ledger and identity, and begin a key ceremony. A second ceremony replaces the keys.

        Raises:
            LedgerError, KeyRefused: the state folder cannot be used or trusted.
        """
        require_allowed("introduce", self._state)
        if self._vault is None:
            job, own = self._job, self._own
            pins = {silo.name: silo.identity for silo in job.silos if silo.identity}
            self._vault = Vault(
                self._spec.run,
                own.terms,
                self.name,
                own.policy.allows_ceremony,
                own.parameters,
                self._books.identity,
                pins,
                job.encryption.verify == "keep",
            )
        self._state = SiloState.AGREEING
        return self._vault.introduce()

    @guarded
    def contribute(self, introductions: tuple[Introduction, ...]) -> Contribution:
        """Seal this silo's part of the keys to each other silo.

        Raises:
            KeyRefused: an introduction is not the one that its silo made.
        """
        require_allowed("contribute", self._state)
        return self._keys.contribute(checked_all(introductions, Introduction))

    @guarded
    def agree(self, contributions: tuple[Contribution, ...]) -> Agreement:
        """Open the parts sealed to this silo, and sign the whole ceremony.

        Raises:
            KeyRefused: something is missing, stale, swapped or forged.
        """
        require_allowed("agree", self._state)
        return self._keys.agree(checked_all(contributions, Contribution))

    @guarded
    def finish(self, agreements: tuple[Agreement, ...], aggregators: Sequence[Any]) -> None:
        """Take up the keys, and reserve the whole plan before anything is trained.

        Args:
            aggregators: the aggregators' actors, in the order of their ranges.

        Raises:
            KeyRefused: a silo signed another ceremony.
        """
        require_allowed("finish", self._state)
        self._keys.finish(checked_all(agreements, Agreement))
        self._keys.connect(self._channel(aggregators))
        self._books.join(self._keys.identities)
        self._own.policy.regroups(tuple(self._keys.identities))
        if isinstance(self._own.optimizer, SumsOptimizer):
            self._own.optimizer.agree_on(self._keys.of_identifiers())
        # Whoever returns to the run has lost its control variates: everybody's begin anew.
        self._models = tuple(replace(one, variates=None) for one in self._models)
        self._state = SiloState.READY

    def _channel(self, aggregators: Sequence[Any]) -> Channel:
        return RayChannel(aggregators)

    # -- attributes that only some states have -------------------------------------------

    @property
    def _own(self) -> PreparedSilo:
        if self._prepared is None:
            raise FederationError("this silo was not inspected")
        return self._prepared

    @property
    def _books(self) -> Books:
        if self._admission.books is None:
            raise FederationError("this silo was not inspected")
        return self._admission.books

    @property
    def _keys(self) -> Vault:
        if self._vault is None:
            raise FederationError("this silo was not introduced to the others")
        return self._vault

    def _require_joined(self) -> None:
        if not self._books.joined:
            raise FederationError("this silo has never joined that run")

    @property
    def _model(self) -> ModelState:
        return self._models[-1]
