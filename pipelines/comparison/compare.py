"""`blindsum compare`: compare the finished runs of one experiment, read from MLflow.

Runs are grouped by arm (federated, local, pooled), budget, mechanism, encryption and, if there are
several, the kind of model; within a group only their seeds differ.
`blindsum.pipelines.comparison.estimates` says what intervals of scores, gains and differences
cover.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from blindsum.pipelines.comparison.estimates import Estimate, Scored, difference, mean
from blindsum.platform.errors import JobError, TrackingError
from blindsum.platform.evaluation.figures import CLASSIFIED, GROUP, MEASURED
from blindsum.platform.evaluation.intervals import Interval
from blindsum.platform.job.file import JobFile
from blindsum.platform.tracking.mlflow_run import tracking_uri
from blindsum.platform.tracking.mlflow_uri import open_client, sqlite_file
from blindsum.platform.tracking.names import EVALUATED, ROUNDS, figures_of

LEAST_RATIO = 0.01
"""Scores and gaps must exceed this to be divided by."""

SCORES = {"auroc": ("mean AUROC", 1.0), "accuracy": ("accuracy", 1.0), "r2": ("mean R2", 1.0)}
"""Main figures and a perfect model's value; a run's main figure is the first that it has."""


ARMS = {"local": "each silo alone", "federated": "federated", "pooled": "pooled records"}
"""The arms in words, in the order of outputs."""

OF_KIND = {
    "auroc": (*CLASSIFIED, "auprc_at_fixed_rate", "coverage_of_positives", "coverage_of_negatives"),
    "accuracy": ("loss",),
    "r2": MEASURED,
}
"""Figures that a diverged model does not have either. MLflow still shows those of an earlier
round."""

Key = tuple[str, float | None, bool, str, str]

OF_MODELS = ("model.", "training.", "server.")
"""Settings in which models of different kinds may differ: each has its own."""


@dataclass(frozen=True)
class Trial:
    """One finished run.

    `score` comes from the last evaluation; `epsilon` is None without privacy; `mechanism` is the
    kind of noise and delta; `silo` is the silo of a baseline that covers only one. `stopped` says
    after which round evaluation stopped, if the model is of a much later one; else it is empty.
    `model` is its kind, if the runs that are compared have models of several kinds.
    """

    name: str
    arm: str
    epsilon: float | None
    encrypted: bool
    seed: str
    metric: str
    figures: dict[str, float]
    settings: tuple[tuple[str, str], ...]
    mechanism: str = ""
    silo: str = ""
    stopped: str = ""
    model: str = ""

    @property
    def score(self) -> float:
        """The figure that runs are compared by."""
        return self.figures[self.metric]

    @property
    def group(self) -> Key:
        """Arm, budget, encryption, mechanism and model: runs are grouped by them."""
        return self.arm, self.epsilon, self.encrypted, self.mechanism, self.model

    @property
    def scored(self) -> Scored:
        """The score with its interval, which earlier versions did not log."""
        ends = [self.figures.get(f"{self.metric}_{end}") for end in ("low", "high")]
        interval = None if None in ends else Interval(*(end or 0.0 for end in ends))
        return Scored(self.score, self.seed, interval)


@dataclass(frozen=True)
class Group:
    """Runs that differ only by their seeds, and their gains over local runs with the same seeds.

    Gains are absolute, relative, and as the share of the gap to a perfect score; None without local
    runs. `behind` is the difference from the group with the best mean, None for that group.
    """

    arm: str
    epsilon: float | None
    encrypted: bool
    mechanism: str
    model: str
    score: Estimate
    figures: dict[str, float]
    gain: Estimate | None
    relative: float | None
    of_gap: float | None
    behind: Estimate | None = None

    @property
    def key(self) -> Key:
        """Arm, budget, encryption, mechanism and model."""
        return self.arm, self.epsilon, self.encrypted, self.mechanism, self.model


@dataclass(frozen=True)
class Comparison:
    """All groups, sorted by arm and then by epsilon.

    `differing` lists the settings that differ between runs. `alone` are baselines of one silo,
    which belong to no group because their held-out records differ. `diverged` are runs whose last
    model has no score, and `stopped` are runs whose figures are of an earlier model than they
    released, for example because a silo was lost. No mean contains these two.
    """

    experiment: str
    metric: str
    trials: list[Trial]
    groups: list[Group]
    differing: list[str]
    alone: list[Trial]
    diverged: list[Trial]
    stopped: list[Trial] = field(default_factory=list)

    @property
    def best(self) -> Group:
        """The group with the best mean score."""
        return max(self.groups, key=lambda group: group.score.mean)


def compare(job_file: JobFile, experiment: str | None, names: Sequence[str]) -> Comparison:
    """Read an experiment's finished runs, either all or those in `names`.

    Raises:
        TrackingError: MLflow cannot be read or has no such experiment.
        JobError: a named run does not exist, or no run is finished.
    """
    experiment = experiment or job_file.job.tracking.experiment or job_file.job.name
    trials = _trials(job_file, experiment)
    if names:
        known = {trial.name for trial in trials}
        if unknown := [name for name in names if name not in known]:
            raise JobError(
                f"experiment {experiment!r} has no finished run {unknown[0]!r}",
                f"It has: {', '.join(sorted(known)) or 'none'}.",
            )
        trials = [trial for trial in trials if trial.name in names]
    if not trials:
        raise JobError(
            f"experiment {experiment!r} has no finished run to compare",
            "Run the job; for baselines run blindsum baseline local and blindsum baseline pooled.",
        )
    diverged = [trial for trial in trials if trial.metric not in trial.figures]
    trials = [trial for trial in trials if trial.metric in trial.figures]
    if not trials:
        raise JobError(
            f"every finished run of experiment {experiment!r} has diverged",
            "Lower training.learning_rate, and run the job again.",
        )
    stopped = [trial for trial in trials if trial.stopped]
    trials = [trial for trial in trials if not trial.stopped]
    if not trials:
        raise JobError(
            f"no finished run of experiment {experiment!r} was evaluated to its end",
            "Evaluation stops when a silo is lost: run the job again.",
        )
    metric = next(name for name in SCORES if any(t.metric == name for t in trials))
    trials = _by_model(trials)
    alone = [trial for trial in trials if trial.metric == metric and trial.silo]
    trials = [trial for trial in trials if trial.metric == metric and not trial.silo]
    grouped: dict[Key, list[Trial]] = defaultdict(list)
    for trial in trials:
        grouped[trial.group].append(trial)
    groups = [_group(of, trials) for _, of in sorted(grouped.items(), key=lambda g: _order(g[0]))]
    if groups:
        groups = _against_best(groups, grouped)
    return Comparison(
        experiment, metric, trials, groups, _differing(trials), alone, diverged, stopped
    )


def _by_model(trials: list[Trial]) -> list[Trial]:
    """Return the trials with the kinds of their models, if there are several."""
    kinds = [dict(trial.settings).get("model.kind", "") for trial in trials]
    if len(set(kinds)) == 1:
        return trials
    return [replace(one, model=kind) for one, kind in zip(trials, kinds, strict=True)]


def _trials(job_file: JobFile, experiment: str) -> list[Trial]:
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(job_file)
    path = sqlite_file(uri)
    if path and not path.exists():  # MLflow would make an empty one
        raise TrackingError(f"there is no MLflow database {path}", "Run the job first.")
    try:
        client = open_client(uri)
        found = client.get_experiment_by_name(experiment)
        runs = (
            client.search_runs(
                [found.experiment_id], "attributes.status = 'FINISHED'", max_results=5000
            )
            if found
            else []
        )
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"MLflow cannot be read ({type(error).__name__})", "Check tracking.uri."
        ) from None
    trials = []
    for run in runs:
        tags, params = run.data.tags, run.data.params
        figures = figures_of(run.data.metrics, tags)
        metric = next((m for m in SCORES if m in figures or f"{m}_diverged" in figures), None)
        if metric is None:
            continue  # an audit, or a run without an evaluation
        figures = _of_last_model(figures)
        if "test_seed" in tags.get("blindsum.differential_privacy", ""):
            continue  # its noise is public: neither private nor free of noise
        epsilon = tags.get("epsilon", "unbounded")
        apart = (
            "runs",
            "tracking",
            "encryption",
            "privacy.epsilon",
            "privacy.noise",
            "privacy.delta",
        )
        settings = [
            (k, v)
            for k, v in sorted(params.items())
            if not k.startswith(apart) and k != "seed" and v != "null"  # as older versions wrote
        ]
        private = epsilon != "unbounded"
        arm = tags.get("blindsum.arm", "federated")
        # Who trains alone adds the whole noise, whatever silos share in a run.
        whose = f"{params.get('privacy.noise')} noise" if arm == "federated" else "its own noise"
        noise = f"{whose}, delta {params.get('privacy.delta')}"
        trials.append(
            Trial(
                run.info.run_name,
                arm,
                float(epsilon) if private else None,
                tags.get("blindsum.encryption", "").upper() != "NONE",
                params.get("seed", ""),
                metric,
                figures,
                tuple(settings),
                noise if private else "",
                tags.get("blindsum.silo", ""),
                _stopped(tags, params),
            )
        )
    return trials


def _stopped(tags: Mapping[str, str], params: Mapping[str, str]) -> str:
    """Return "round 21 of 149" if a run's evaluation stopped before its last rounds; runs of
    earlier versions do not say."""
    rounds = int(tags.get(ROUNDS, 0))
    evaluated, every = int(tags.get(EVALUATED, rounds)), int(params.get("privacy.metrics_every", 1))
    return f"round {evaluated} of {rounds}" if rounds - evaluated >= every else ""


def _order(group: Key) -> tuple[int, float, bool, str, str]:
    arms = tuple(ARMS)
    arm, epsilon, encrypted, mechanism, model = group
    return (
        arms.index(arm) if arm in arms else len(arms),
        np.inf if epsilon is None else epsilon,
        encrypted,
        mechanism,
        model,
    )


def _of_last_model(figures: dict[str, float]) -> dict[str, float]:
    """Return the figures without those of an earlier round, if the last model has diverged."""
    lost = {
        name
        for metric, others in OF_KIND.items()
        if figures.get(f"{metric}_diverged")
        for name in (metric, *others)
    }
    return {name: value for name, value in figures.items() if _whole(name) not in lost}


def _whole(name: str) -> str:
    """Return the figure of which this is an end of the interval, or the value of a group."""
    return name.partition(GROUP)[0].removesuffix("_low").removesuffix("_high")


def _against_best(groups: list[Group], grouped: Mapping[Key, list[Trial]]) -> list[Group]:
    """Return the groups with their differences from the best one."""
    best = max(groups, key=lambda group: group.score.mean)
    runs = {key: [t.scored for t in newest(of).values()] for key, of in grouped.items()}
    return [
        one
        if one.key == best.key
        else replace(one, behind=difference(runs[one.key], runs[best.key]))
        for one in groups
    ]


def _group(of: Sequence[Trial], trials: Sequence[Trial]) -> Group:
    first, own = of[0], list(newest(of).values())
    names = set.intersection(*(set(trial.figures) for trial in own))
    figures = {name: float(np.mean([t.figures[name] for t in own])) for name in names}
    bases = bases_of([t for t in trials if t.model == first.model], first.epsilon)
    paired = [t for t in own if t.seed in bases]
    gain = relative = of_gap = None
    if paired and first.arm != "local":
        gain = difference([t.scored for t in paired], [bases[t.seed].scored for t in paired])
        ours = np.array([t.score for t in paired])
        local = np.array([bases[t.seed].score for t in paired])
        gaps = SCORES[first.metric][1] - local
        # A ratio to a value near zero means nothing, and R2 has no natural zero.
        if first.metric != "r2" and local.min() > LEAST_RATIO:
            relative = float(((ours - local) / local).mean())
        if gaps.min() > LEAST_RATIO:
            of_gap = float(((ours - local) / gaps).mean())
    score = mean([trial.scored for trial in own], SCORES[first.metric][1])
    return Group(*first.group, score, figures, gain, relative, of_gap)


def newest(of: Sequence[Trial]) -> dict[str, Trial]:
    """Return each seed's newest run; MLflow returns the newest first."""
    return {trial.seed: trial for trial in reversed(of)}


def bases_of(trials: Sequence[Trial], epsilon: float | None) -> dict[str, Trial]:
    """Return, by seed, the local runs from which gains are measured.

    These are the runs without privacy, which a silo training alone does not need; if there are
    none, the runs at the same budget.
    """
    local = [t for t in trials if t.arm == "local" and t.epsilon is None]
    return newest(local or [t for t in trials if t.arm == "local" and t.epsilon == epsilon])


def _differing(trials: Sequence[Trial]) -> list[str]:
    """Return the settings, besides seed, privacy and encryption, that differ between runs."""
    values: dict[tuple[str, str], set[str | None]] = defaultdict(set)
    known = {name for trial in trials for name, _ in trial.settings}
    for trial in trials:
        own = dict(trial.settings)
        for name in known:
            if trial.epsilon is not None or not name.startswith("privacy."):
                within = trial.model if name.startswith(OF_MODELS) else ""
                values[name, within].add(own.get(name))
    return sorted({name for (name, _), found in values.items() if len(found) > 1})


def label(group: Key) -> str:
    """Return a group's description."""
    _, epsilon, _, mechanism, _ = group
    return (
        f"{arm_of(group)}, no privacy"
        if epsilon is None
        else f"{arm_of(group)}, epsilon {epsilon:g}, {mechanism}"
    )


def arm_of(group: Key) -> str:
    """Return who trained a group's runs, in words, and of several kinds of models, which."""
    arm, _, encrypted, _, model = group
    plain = "" if encrypted or arm != "federated" else ", NOT encrypted"
    return f"{ARMS.get(arm, arm)}{f', {model}' if model else ''}{plain}"
