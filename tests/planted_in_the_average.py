"""Faults in the average of the rounds' models, planted by `tests/mutants.py`."""

from __future__ import annotations

AVERAGING, RETURNS = "tests/actors/test_averaging.py", "tests/actors/test_returns.py"
VARIATES = "tests/actors/test_control_variates.py"
SILO = "tests/actors/test_silo.py"

IN_THE_AVERAGE = (
    (
        "average: the newest model released",
        "actors/silo.py",
        "[(one.average.shared, one.vector) for one in self._models",
        "[(one.vector, one.vector) for one in self._models",
        AVERAGING,
    ),
    (
        "average: a newest model on which the silos did not agree",
        "actors/releasing.py",
        "digest(models[1], models[0]) == state_digest",
        "digest(models[1], models[0])",
        "tests/actors/test_failures.py",
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
        "            self._model.vector,\n            exchange.clipping,\n",
        "            self._model.average.shared,\n            exchange.clipping,\n",
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
        "actors/round_report.py",
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
        "control variates: of what was not sent",
        "actors/digitiser.py",
        "        values[where] = integers * unit\n",
        "        values[where] = integers * unit * 0.9\n",
        VARIATES,
    ),
    (
        "control variates: kept although others begin anew",
        "actors/joining.py",
        "tuple(replace(one, variates=None) for one in self._models)",
        "self._models",
        VARIATES,
    ),
    (
        "control variates: of another roster",
        "actors/silo.py",
        "if kept is None or kept.roster != roster:",
        "if kept is None:",
        VARIATES,
    ),
    (
        "control variates: of a mean that was scaled down",
        "actors/silo.py",
        "sent.values is None or mean.held < 1:",
        "sent.values is None:",
        VARIATES,
    ),
    (
        "control variates: within the steps of momentum, whose bound does not know them",
        "platform/job/training_section.py",
        'if self.control_variates and (self.optimizer, self.proximal) != ("sgd", 0.0):',
        "if False:",
        "tests/platform/test_control_variates.py",
    ),
    (
        "average: weights that do not sum to one",
        "platform/training/average.py",
        "(rule.eta + 1) / (round + rule.eta)",
        "(rule.eta + 1) / (round + 1 + rule.eta)",
        "tests/platform/test_average.py",
    ),
)
