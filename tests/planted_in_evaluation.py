"""Faults in held-out figures of tasks, planted by `tests/mutants.py`."""

from __future__ import annotations

CONFORMAL = "tests/platform/test_conformal.py"
FOLDS = "tests/platform/test_cluster_and_time_folds.py"
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
        "folds: the cut date's own records trained on",
        "platform/data/split.py",
        "np.array(pc.greater_equal(table.column(self.section.column), cut), np.bool_)",
        "np.array(pc.greater(table.column(self.section.column), cut), np.bool_)",
        FOLDS,
    ),
    (
        "folds: text that is no date taken for a date",
        "platform/data/usable.py",
        "    return [*found, *of_folds, *gaps(table.select(keys))]\n",
        "    return [*found, *gaps(table.select(keys))]\n",
        FOLDS,
    ),
    (
        "folds: a fingerprint by the form of a date",
        "platform/data/checked.py",
        "                table = folds.uniform(table)\n",
        "",
        FOLDS,
    ),
    (
        "folds: everything like some leader",
        "platform/data/clusters.py",
        "if similar[best] >= LIKE else",
        "if similar[best] >= 0 else",
        FOLDS,
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
