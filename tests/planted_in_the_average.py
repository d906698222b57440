"""Faults in the average of the rounds' models, planted by `tests/mutants.py`."""

from __future__ import annotations

AVERAGING, RETURNS = "tests/actors/test_averaging.py", "tests/actors/test_returns.py"
SILO = "tests/actors/test_silo.py"

IN_THE_AVERAGE = (
    (
        "average: the newest model released",
        "actors/silo.py",
        "[one.average.shared for one in self._models",
        "[one.vector for one in self._models",
        AVERAGING,
    ),
    (
        "average: the newest model evaluated",
        "actors/silo.py",
        "with showing(own.model, self._model.average, own.room) as shown:",
        "for shown in (own.model,):",
        AVERAGING,
    ),
    (
        "average: what training goes on from",
        "actors/silo.py",
        "own.trainer.train(self._model.vector,",
        "own.trainer.train(self._model.average.shared,",
        SILO,
    ),
    (
        "average: left in place by an undone round",
        "actors/silo.py",
        "        self._models = self._models[:1]\n",
        "        self._models = (replace(self._models[0], average=self._model.average),)\n",
        SILO,
    ),
    (
        "average: not in the checkpoint",
        "platform/state/checkpoint.py",
        '"average": average.shared}',
        '"average": checkpoint.model}',
        f"{AVERAGING} tests/actors/test_restore.py",
    ),
    (
        "average: in no digest",
        "actors/prepared.py",
        "digest(vector, average.shared)",
        "digest(vector)",
        AVERAGING,
    ),
    (
        "average: not compared between silos",
        "actors/federation.py",
        'same_digest((a.model_digest for a in applied), "averaged model", number)',
        "applied[0].model_digest",
        AVERAGING,
    ),
    (
        "average: of a head that is not kept",
        "actors/prepared.py",
        "kept.average if kept.head else replace(",
        "replace(",
        AVERAGING,
    ),
    (
        "average: of a state taken over, of any shape",
        "actors/returning.py",
        "models = [kept.model, kept.average.shared]",
        "models = [kept.model]",
        RETURNS,
    ),
    (
        "average: weights that do not sum to one",
        "platform/training/average.py",
        "(rule.eta + 1) / (round + rule.eta)",
        "(rule.eta + 1) / (round + 1 + rule.eta)",
        "tests/platform/test_average.py",
    ),
)
