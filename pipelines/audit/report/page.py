"""The audit as one HTML page that carries all it needs, and the silo's private page of records."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture

from blindsum.pipelines.audit.attacks.tradeoff import Point
from blindsum.pipelines.audit.evidence import DEFENCES, Evidence, Figure
from blindsum.pipelines.audit.outcome import Audit
from blindsum.pipelines.show.page import PAGE, embedded

BLUE, ORANGE, GREY, RED = "#2c6fbb", "#d1701f", "#8a8a8a", "#b3261e"
NAMED = {
    "none": "no protection",
    "dp": "privacy alone",
    "encrypted": "encryption alone",
    "both": "both",
}


OWN = NAMED | {"both": "privacy and encryption"}


@dataclass(frozen=True)
class Row:
    """One line of the matrix: an attack, its main figure, and who tries it."""

    adversary: str
    attack: str
    figure: str
    meaning: str


ROWS = (
    Row("server", "closed form", "exact records", "one record, from the first layer's gradient"),
    Row("server", "sparse recovery", "exact records", "a batch, from a first layer with ReLU"),
    Row("server", "matching", "identified", "a batch, by matching the whole gradient"),
    Row("server", "imprint", "exact records", "a large batch, with a first layer that it planted"),
    Row("participant", "subtraction", "exact records", "the total minus one's own part"),
    Row(
        "participant",
        "generator",
        "nearer to training records",
        "of the class whose records it makes, half if it has learnt no record",
    ),
    Row("aggregator", "key recovery", "share of the key", "from published decryptions"),
    Row("aggregator", "upload opened", "values read", "with the silos' shared key leaked"),
    Row("outsider", "lira", "TPR at 1 % FPR", "who was trained on, by likelihood ratios"),
    Row("outsider", "lira by task", "TPR at 1 % FPR", "the same, by the label of one task of many"),
    Row("outsider", "rmia", "TPR at 1 % FPR", "the same, relative to the population"),
    Row("outsider", "confidence", "TPR at 1 % FPR", "the same, by confidence alone (weak)"),
    Row("outsider", "candidates", "right candidate", "which of many records it was"),
    Row(
        "outsider",
        "memorisation",
        "training molecules drawn",
        "letter by letter, from a language model",
    ),
)


def as_page(found: Audit, run: str) -> str:
    """The report: figures over many records, none of a record."""
    job, own = found.job, found.own
    plan = found.plan
    parts = [
        f"<h1>Audit of {html.escape(job.name)}</h1>",
        (
            f"<p>Silo {html.escape(found.silo)}, {html.escape(run)}, {found.depth.name} audit, "
            f"{found.seconds:.0f} s, blindsum {version('blindsum')}. This job has: <b>{OWN[own]}</b>, "
            f"epsilon {plan.epsilon:g} at delta {plan.delta:g} where there is privacy.</p>"
        ),
        (
            "<p class=note>These figures come from private records and are not differentially "
            "private. The silo's owner decides who sees them. A failed attack is no proof: a better one "
            "may succeed. What is proven is the privacy plan and the encryption's hardness.</p>"
        ),
        "<h2>Attacks and defences</h2>",
        _matrix(found),
        (
            "<p class=legend>Worst over checkpoints and batches, with the 95 % interval; in grey what "
            "guessing from public knowledge gives. Red: the attack did better than guessing.</p>"
        ),
        "<h2>Does the training keep its epsilon?</h2>",
        _bounds(found),
    ]
    if found.curves:
        parts += [
            "<h2>Who was in the training data</h2>",
            embedded(_membership(found)),
            _table(
                (
                    "attack",
                    "defence",
                    "TPR at 1 % FPR",
                    "TPR at 0.1 %",
                    "TPR at 0",
                    "precision at 0.1 %",
                    "canaries, 1 %",
                ),
                _membership_rows(found.findings.evidence),
            ),
        ]
    if found.tradeoff:
        parts += [
            "<h2>What privacy costs</h2>",
            embedded(_costs(found.tradeoff, plan.epsilon, found.score)),
            (
                f"<p class=legend>Held-out {found.score} of models trained on this silo's records alone, with "
                f"the noise that reaches the mean of {len(job.silos)} silos of its kind; mean and 95 % "
                f"interval over {found.depth.models} models. <code>blindsum run</code> trains the real one.</p>"
            ),
        ]
    parts += [
        "<h2>An aggregator that alters the sum</h2>",
        _table(
            ("tried", "answer"),
            (
                (name, answer or "<b class=bad>ACCEPTED</b>")
                for name, answer in found.refusals.items()
            ),
        ),
        "<h2>A server that plants the first layer</h2>",
        f"<p>This silo refuses it: {html.escape(found.planted)}.</p>"
        if found.planted
        else "<p class=bad>This silo would accept it: no approval of its owner is asked for (blindsum "
        "silo init).</p>",
        "<h2>Every attack</h2>",
        _all(found.findings.evidence),
        "<h2>What was not tested</h2>",
        "<ul>"
        + "".join(f"<li>{html.escape(one)}</li>" for one in found.findings.not_tested)
        + "</ul>",
    ]
    return PAGE.format(title=f"Audit of {html.escape(job.name)}", body="\n".join(parts))


def _matrix(found: Audit) -> str:
    rows = []
    for row in ROWS:
        cells = [_cell(worst(found.findings.evidence, row, defence)) for defence in DEFENCES]
        if any(cells):
            rows.append(
                (row.adversary, f"<b>{row.attack}</b><br>{row.meaning}", row.figure, *cells)
            )
    return _table(("adversary", "attack", "figure", *NAMED.values()), rows)


def worst(evidence: Iterable[Evidence], row: Row, defence: str) -> Figure | None:
    """Return the attack's best figure under a defence, the worst for the silo; None without any."""
    of_row = [
        e.figures[row.figure]
        for e in evidence
        if (e.adversary, e.attack, e.defence) == (row.adversary, row.attack, defence)
    ]
    return max(of_row, key=lambda f: -f.value if f.less else f.value, default=None)


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    kind = "bad" if figure.above_floor else "good"
    interval = ""
    if figure.low is not None and figure.high is not None:
        interval = f" <small>{shown(figure, figure.low)} to {shown(figure, figure.high)}</small>"
    floor = "" if figure.floor is None else shown(figure, figure.floor)
    return (
        f"<span class={kind}>{shown(figure, figure.value)}</span>{interval}"
        f"<br><small class=floor>{floor}</small>"
    )


def shown(figure: Figure, value: float) -> str:
    """A share in per cent; a distance as it is."""
    return f"{value:.3g}" if figure.less else f"{value:.1%}"


def _bounds(found: Audit) -> str:
    rows = []
    for name, views in found.bounds.items():
        claimed = "none" if name == "without noise" else f"{found.plan.epsilon:g}"
        for view, bound in views.items():
            rows.append(
                (
                    name,
                    view,
                    claimed,
                    f"{bound.epsilon:.2f}",
                    f"{bound.gaussian:.2f}",
                    f"{bound.right} of {bound.guesses}",
                )
            )
    planned, promised = found.bounds.get("as planned", {}).values(), found.plan.epsilon
    verdict = "<p>Nothing found contradicts the plan.</p>"
    if any(b.gaussian > promised for b in planned):
        verdict = "<p class=bad>The Gaussian bound is above the plan: look into it.</p>"
    if any(b.epsilon > promised for b in planned):
        verdict = "<p class=bad>More was found than the plan allows: it is not kept.</p>"
    return verdict + _table(
        (
            "run",
            "auditor",
            "epsilon claimed",
            "epsilon at least",
            "at least, if Gaussian",
            "right guesses",
        ),
        rows,
    )


def _membership_rows(evidence: Iterable[Evidence]) -> list[tuple[str, ...]]:
    names = (
        "TPR at 1 % FPR",
        "TPR at 0.1 % FPR",
        "TPR at 0 FPR",
        "precision at 0.1 % FPR",
        "canaries' TPR at 1 % FPR",
    )
    return [
        (html.escape(_named(e)), NAMED[e.defence], *(_cell(e.figures.get(name)) for name in names))
        for e in evidence
        if e.adversary == "outsider" and names[0] in e.figures and e.defence in ("none", "dp")
    ]


def _named(evidence: Evidence) -> str:
    """The attack, and which task it reads."""
    by_task = evidence.attack == "lira by task"
    return f"lira, {evidence.setting}" if by_task else evidence.attack


def _membership(found: Audit) -> Picture:
    picture = Picture(figsize=(9.5, 3.6), layout="constrained")
    FigureCanvasAgg(picture)
    curve, risks = picture.subplots(1, 2)
    colours = {"none": ORANGE, "dp": BLUE}
    for defence, points in found.curves.items():
        x, y = zip(*points, strict=True)
        curve.plot(x, np.maximum(y, 1e-4), color=colours[defence], label=NAMED[defence])
        counts = np.array(found.exposures[defence])
        edges = np.linspace(0, 1, len(counts) + 1)
        risks.stairs(counts, edges, color=colours[defence], label=NAMED[defence], linewidth=1.5)
    curve.plot([1e-4, 1], [1e-4, 1], color=GREY, linestyle=":", label="guessing")
    curve.set(
        xscale="log",
        yscale="log",
        xlabel="false positive rate",
        ylabel="true positive rate",
        title="likelihood ratios (LiRA), all targets",
    )
    risks.set(
        xlabel="chance to tell that a record is in",
        ylabel="share of records",
        title="exposure by record",
    )
    for axes in (curve, risks):
        _plain(axes)
    return picture


def _costs(points: Sequence[Point], planned: float, score: str) -> Picture:
    picture = Picture(figsize=(6.0, 3.0), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.subplots()
    private = [p for p in points if p.epsilon is not None]
    epsilons = [p.epsilon or 0.0 for p in private]
    axes.errorbar(
        epsilons,
        [p.score.value for p in private],
        yerr=_reach([p.score for p in private]),
        color=BLUE,
        marker="o",
        capsize=3,
        label="with privacy",
    )
    for bare in (p.score for p in points if p.epsilon is None):
        axes.axhline(bare.value, color=ORANGE, label="without")
        (below,), (above,) = _reach([bare])
        axes.axhspan(bare.value - below, bare.value + above, color=ORANGE, alpha=0.12, linewidth=0)
    axes.axvline(planned, color=GREY, linestyle=":", label="the plan")
    axes.set(xscale="log", xlabel="epsilon", ylabel=f"held-out {score}")
    axes.set_xticks(epsilons, [f"{e:g}" for e in epsilons])
    axes.minorticks_off()
    _plain(axes)
    return picture


def _reach(figures: Sequence[Figure]) -> list[list[float]]:
    """From each value down and up to its interval's ends."""
    return [
        [f.value - (f.value if f.low is None else f.low) for f in figures],
        [(f.value if f.high is None else f.high) - f.value for f in figures],
    ]


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    axes.title.set_fontsize(9)


def _all(evidence: Iterable[Evidence]) -> str:
    rows = (
        (
            e.adversary,
            e.attack,
            NAMED[e.defence],
            e.checkpoint,
            html.escape(e.setting),
            "; ".join(f"{name} {_number(f)}" for name, f in e.figures.items()),
            f"{e.seconds:.1f}",
        )
        for e in evidence
    )
    heads = ("adversary", "attack", "defence", "model", "setting", "figures (floor)", "seconds")
    return _table(heads, rows)


def _number(figure: Figure) -> str:
    return f"{figure.value:.3g}" + ("" if figure.floor is None else f" ({figure.floor:.3g})")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(one)}</th>" for one in heads)
    body = "".join("<tr>" + "".join(f"<td>{one}</td>" for one in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><tr>{head}</tr>{body}</table></div>"
