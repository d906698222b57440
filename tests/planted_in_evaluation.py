"""Faults in held-out figures of tasks, planted by `tests/mutants.py`."""

from __future__ import annotations

CONFORMAL = "tests/platform/test_conformal.py"
TASKS = "tests/platform/test_tasks.py"

IN_EVALUATION = (
    (
        "conformal: classes calibrated together",
        "platform/evaluation/conformal.py",
        "        fits, of_label = sign * said, true == label\n",
        "        fits, of_label = sign * said, true >= 0\n",
        CONFORMAL,
    ),
    (
        "conformal: a record in its own calibration",
        "platform/evaluation/conformal.py",
        "            worse[here] -= _no_larger(fits[here & of_label], fits[here])\n",
        "",
        CONFORMAL,
    ),
    (
        "conformal: equal logits that fit better",
        "platform/evaluation/conformal.py",
        'return np.searchsorted(np.sort(of), than, side="right")',
        'return np.searchsorted(np.sort(of), than, side="left")',
        CONFORMAL,
    ),
    (
        "groups: one of a single task",
        "platform/job/data_section.py",
        "if size < LEAST_IN_GROUP]:",
        "if size < 1]:",
        TASKS,
    ),
    (
        "groups: impossible counts of a group",
        "platform/evaluation/tasks.py",
        "self._in(g), silos) for g, one in groups.items())",
        "self._in(g), silos) for g, one in ())",
        TASKS,
    ),
)
