"""Render an audit as one self-contained HTML page: figures over many records, no record."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from blindsum.pipelines.audit.evidence import DEFENCES, NAMED, Defence, Evidence, Figure
from blindsum.pipelines.audit.outcome import Audit
from blindsum.pipelines.audit.report.drawn import drawn_part
from blindsum.pipelines.audit.report.plots import costs, membership
from blindsum.pipelines.audit.report.sums import sums_part
from blindsum.pipelines.show.page import PAGE, embedded

OWN: dict[Defence, str] = NAMED | {"both": "privacy and encryption"}


@dataclass(frozen=True)
class Row:
    """One row of the matrix: an adversary, its attack, and the attack's main figure."""

    adversary: str
    attack: str
    figure: str
    meaning: str


ROWS = (
    Row("server", "closed form", "exact records", "one record, from the first layer's gradient"),
    Row(
        "server",
        "sparse recovery",
        "exact records",
        "a batch, from the gradient of a first layer with ReLU",
    ),
    Row("server", "matching", "identified", "a batch, by matching the whole gradient"),
    Row(
        "server",
        "imprint",
        "exact records",
        "a large batch, through a layer that it planted: the first one, or one in front of the "
        "model",
    ),
    Row(
        "participant",
        "subtraction",
        "exact records",
        "the total minus the participant's own update",
    ),
    Row(
        "participant",
        "histograms",
        "exact records",
        "label and bins of all features of another silo's record, from the sums by bin",
    ),
    Row(
        "participant",
        "leaves",
        "told apart",
        "another silo's record, its label, and intervals of its features, from the sums of leaves",
    ),
    Row(
        "participant",
        "generator",
        "nearer to training records",
        "share of the records it generates; 50 % if it has learnt the class but no record",
    ),
    Row("aggregator", "key recovery", "share of the key", "from published decryptions"),
    Row("aggregator", "upload opened", "values read", "after the silos' shared key has leaked"),
    Row("outsider", "lira", "TPR at 1 % FPR", "membership, by likelihood ratios"),
    Row(
        "outsider",
        "lira by task",
        "TPR at 1 % FPR",
        "membership, from the label of one task of many",
    ),
    Row("outsider", "rmia", "TPR at 1 % FPR", "membership, relative to population records"),
    Row("outsider", "confidence", "TPR at 1 % FPR", "membership, from confidence only (weak)"),
    Row(
        "outsider",
        "candidates",
        "right candidate",
        "which of many candidate records was trained on",
    ),
    Row(
        "outsider",
        "memorisation",
        "training molecules drawn",
        "sampled letter by letter from a language model",
    ),
    Row(
        "outsider",
        "text canaries",
        "exposure (bits)",
        "random texts planted once each in a copy of the records; 1 bit is chance",
    ),
)


def as_page(found: Audit, run: str) -> str:
    """Return the report as HTML: figures over many records, none about a single record."""
    job, own = found.job, found.own
    plan = found.plan
    parts = [
        f"<h1>Audit of {html.escape(job.name)}</h1>",
        (
            f"<p>Silo {html.escape(found.silo)}, {html.escape(run)}, {found.depth.name} audit, "
            f"{found.seconds:.0f} s, blindsum {version('blindsum')}. This job has: "
            f"<b>{OWN[own]}</b>. The columns with privacy use epsilon {plan.epsilon:g} at delta "
            f"{plan.delta:g}. Without privacy there are {html.escape(found.reference)}.</p>"
        ),
        (
            "<p class=note>These figures come from private records and are not differentially "
            "private. The silo's owner decides who sees them. A failed attack proves nothing: a "
            "better one may succeed. The guarantees come from the privacy plan and from the "
            "hardness of breaking the encryption.</p>"
        ),
        "<h2>Attacks and defences</h2>",
        _matrix(found),
        (
            "<p class=legend>Each cell shows the worst figure over all checkpoints and batch "
            "sizes, its 95 % interval and, in grey, the figure that guessing from public "
            "knowledge reaches. <span class=bad>Red</span>: the attack beat guessing with its "
            "whole interval, or with its value where there is no interval. "
            "<span class=unclear>Brown</span>: it beat guessing with its value, but the interval "
            "includes what guessing reaches, so that this may be chance. "
            "<span class=good>Green</span>: it did not beat guessing. A distance beats guessing "
            "if it is smaller.</p>"
        ),
        "<h2>Does training stay within its epsilon?</h2>",
        _bounds(found),
    ]
    parts += sums_part(found.findings.evidence, _cell, _table)
    if found.curves:
        parts += _membership_part(found)
    if found.tradeoff:
        parts += _costs_part(found)
    if found.drawn:
        parts += drawn_part(found.drawn)
    parts += [*_alterations(found), "<h2>All attacks</h2>", _all(found.findings.evidence)]
    untested = "".join(f"<li>{html.escape(one)}</li>" for one in found.findings.not_tested)
    parts.append(f"<h2>What was not tested</h2>\n<ul>{untested}</ul>")
    return PAGE.format(title=f"Audit of {html.escape(job.name)}", body="\n".join(parts))


def _membership_part(found: Audit) -> list[str]:
    heads = (
        "attack",
        "defence",
        "TPR at 1 % FPR",
        "TPR at 0.1 % FPR",
        "TPR at 0 FPR",
        "precision at 0.1 % FPR",
        "canaries' TPR at 1 % FPR",
    )
    return [
        "<h2>Membership: which records were trained on</h2>",
        (
            f"<p class=legend>{_shadows(found)} The attacker knows the job, can train such models "
            "on records like these, and can query the attacked one.</p>"
        ),
        embedded(membership(found.curves, found.exposures)),
        _table(heads, _membership_rows(found.findings.evidence)),
    ]


def _costs_part(found: Audit) -> list[str]:
    return [
        "<h2>The cost of privacy</h2>",
        embedded(costs(found.tradeoff, found.plan.epsilon, found.score)),
        (
            f"<p class=legend>Held-out {found.score} of models trained only on this silo's "
            f"records, with the same noise-to-signal ratio as the mean of {len(found.job.silos)} "
            f"such silos' updates; mean and 95 % interval over {found.tradeoff[0].models} models. "
            f"Without privacy: {html.escape(found.reference)}. "
            "<code>blindsum run</code> trains the real model.</p>"
        ),
    ]


def _alterations(found: Audit) -> list[str]:
    """Return what the silo answers to altered sums and planted weights."""
    accepted = "<b class=bad>ACCEPTED</b>"
    answers = ((name, answer or accepted) for name, answer in found.refusals.items())
    return [
        "<h2>An aggregator that alters the sum</h2>",
        _table(("attempt", "refusal"), answers),
        "<h2>A server that plants weights, or a layer in front of the model</h2>",
        f"<p>This silo refuses them: {html.escape(found.planted)}.</p>"
        if found.planted
        else "<p class=bad>This silo would accept them: its machine does not require the owner's "
        "approval of the job. To require it: blindsum silo init.</p>",
    ]


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
    """Return the figure most favourable to the attacker, or None if there is no evidence."""
    of_row = [
        e.figures[row.figure]
        for e in evidence
        if (e.adversary, e.attack, e.defence) == (row.adversary, row.attack, defence)
    ]
    return max(of_row, key=lambda f: -f.value if f.less else f.value, default=None)


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    kind = "bad" if figure.above_floor else "unclear" if figure.undecided else "good"
    interval = f" ({found})" if (found := interval_of(figure)) else ""
    floor = "" if figure.floor is None else f"guessing: {shown(figure, figure.floor)}"
    return (
        f"<span class={kind}>{shown(figure, figure.value)}</span>"
        f"<small>{interval}</small><br><small class=floor>{floor}</small>"
    )


def interval_of(figure: Figure) -> str:
    """Return "95 %: 0.0% to 12.1%", or nothing without an interval."""
    if figure.low is None or figure.high is None:
        return ""
    return f"95 %: {shown(figure, figure.low)} to {shown(figure, figure.high)}"


def shown(figure: Figure, value: float) -> str:
    """Format a value: shares in per cent, distances as they are."""
    return f"{value:.1%}" if figure.is_share else f"{value:.3g}"


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
    verdict = "<p>With the planned noise, no lower bound exceeds the planned epsilon.</p>"
    if any(b.gaussian > promised for b in planned):
        verdict = (
            "<p class=bad>With the planned noise, the lower bound that assumes a Gaussian "
            "mechanism exceeds the planned epsilon: investigate.</p>"
        )
    if any(b.epsilon > promised for b in planned):
        verdict = (
            "<p class=bad>With the planned noise, a lower bound exceeds the planned epsilon: "
            "training does not keep its plan.</p>"
        )
    return verdict + _table(
        (
            "run",
            "auditor",
            "claimed epsilon",
            "lower bound on epsilon",
            "only if the mechanism is Gaussian",
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
    """Return the attack's name, with its task for the attack by task."""
    by_task = evidence.attack == "lira by task"
    return f"lira, {evidence.setting}" if by_task else evidence.attack


def _shadows(found: Audit) -> str:
    """Return how many shadow models each defence's figures rest on."""
    of = {
        NAMED[e.defence]: e.setting
        for e in found.findings.evidence
        if e.attack == "lira" and e.defence in ("none", "dp")
    }
    return html.escape("; ".join(f"{name}: {setting}" for name, setting in of.items()) + ".")


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
    heads = ("adversary", "attack", "defence", "model", "setting", "figures", "seconds")
    return _table(heads, rows)


def _number(figure: Figure) -> str:
    inside = []
    if figure.low is not None and figure.high is not None:
        inside.append(f"95 %: {figure.low:.3g} to {figure.high:.3g}")
    if figure.floor is not None:
        inside.append(f"guessing: {figure.floor:.3g}")
    return f"{figure.value:.3g}" + (f" ({'; '.join(inside)})" if inside else "")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(one)}</th>" for one in heads)
    body = "".join("<tr>" + "".join(f"<td>{one}</td>" for one in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><tr>{head}</tr>{body}</table></div>"
