"""The audit as one HTML page that carries all it needs, and the silo's private page of records."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture

from blindsum.pipelines.audit.evidence import DEFENCES, Evidence, Figure
from blindsum.pipelines.audit.run import Audit

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
    Row("aggregator", "key recovery", "share of the key", "from published decryptions"),
    Row("aggregator", "upload opened", "values read", "with the silos' shared key leaked"),
    Row("outsider", "lira", "TPR at 1 % FPR", "who was trained on, by likelihood ratios"),
    Row("outsider", "rmia", "TPR at 1 % FPR", "the same, relative to the population"),
    Row("outsider", "confidence", "TPR at 1 % FPR", "the same, by confidence alone (weak)"),
    Row("outsider", "candidates", "right candidate", "which of many records it was"),
)


def as_page(found: Audit, run: str) -> str:
    """The report: figures over many records, none of a record."""
    job, own = found.job, found.own
    plan = found.plan
    parts = [
        f"<h1>Audit of {html.escape(job.name)}</h1>",
        (f"<p>Silo {html.escape(found.silo)}, {html.escape(run)}, {found.depth.name} audit, "
        f"{found.seconds:.0f} s, blindsum {version('blindsum')}. This job has: <b>{OWN[own]}</b>, "
        f"epsilon {plan.epsilon:g} at delta {plan.delta:g} where there is privacy.</p>"),
        ("<p class=note>These figures come from private records and are not differentially "
        "private. The silo's owner decides who sees them. A failed attack is no proof: a better one "
        "may succeed. What is proven is the privacy plan and the encryption's hardness.</p>"),
        "<h2>Attacks and defences</h2>", _matrix(found),
        ("<p class=legend>Worst over checkpoints and batches, with the 95 % interval; in grey what "
        "guessing from public knowledge gives. Red: the attack did better than guessing.</p>"),
        "<h2>Does the training keep its epsilon?</h2>", _bounds(found),
    ]  # fmt: skip
    if found.curves:
        parts += [
            "<h2>Who was in the training data</h2>", _picture(_membership(found)),
            _table(
                ("attack", "defence", "TPR at 1 % FPR", "TPR at 0.1 %", "TPR at 0", "precision at 0.1 %",
                 "canaries, 1 %"),
                _membership_rows(found.findings.evidence),
            ),
        ]  # fmt: skip
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
        else "<p class=bad>This silo would accept it: its owner has approved no job (blindsum "
        "approve).</p>",
        "<h2>Every attack</h2>", _all(found.findings.evidence),
        "<h2>What was not tested</h2>",
        "<ul>" + "".join(f"<li>{html.escape(one)}</li>" for one in found.findings.not_tested) + "</ul>",
    ]  # fmt: skip
    return PAGE.format(title=f"Audit of {html.escape(job.name)}", body="\n".join(parts))


def as_private_page(found: Audit) -> str:
    """True, recovered and guessed records side by side. For the silo's own eyes."""
    parts = [
        (
            "<h1>Recovered records</h1><p class=note>Private: this page shows records of the silo "
            f"{html.escape(found.silo)}. It is in the silo's state folder and belongs nowhere else.</p>"
        )
    ]
    for example in found.examples:
        parts.append(f"<h2>{html.escape(example.title)}</h2>")
        picture = Picture(figsize=(9, 1.6), layout="constrained")
        FigureCanvasAgg(picture)
        axes = picture.subplots(1, 3)
        low, high = float(example.true.min()), float(example.true.max())
        shown = (
            ("true", example.true),
            ("recovered", example.recovered),
            ("guessed", example.guessed),
        )
        for axis, (name, records) in zip(axes, shown, strict=True):
            axis.imshow(
                np.clip(records, low, high), aspect="auto", vmin=low, vmax=high, cmap="viridis"
            )
            axis.set_title(f"{name}: records down, features across", fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
        parts.append(_picture(picture))
    return PAGE.format(title="Recovered records", body="\n".join(parts))


def _matrix(found: Audit) -> str:
    rows = []
    for row in ROWS:
        cells = [
            _cell(worst(found.findings.evidence, row, defence)) for defence in DEFENCES
        ]  # fmt: skip
        if any(cells):
            rows.append(
                (row.adversary, f"<b>{row.attack}</b><br>{row.meaning}", row.figure, *cells)
            )
    return _table(("adversary", "attack", "figure", *NAMED.values()), rows)


def worst(evidence: Iterable[Evidence], row: Row, defence: str) -> Figure | None:
    of_row = [
        e.figures[row.figure] for e in evidence
        if (e.adversary, e.attack, e.defence) == (row.adversary, row.attack, defence)
    ]  # fmt: skip
    return max(of_row, key=lambda f: f.value, default=None)


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    kind = "bad" if figure.above_floor else "good"
    interval = ""
    if figure.low is not None and figure.high is not None:
        interval = f" <small>{figure.low:.1%} to {figure.high:.1%}</small>"
    floor = "" if figure.floor is None else f"<br><small class=floor>{figure.floor:.2%}</small>"
    return f"<span class={kind}>{figure.value:.1%}</span>{interval}{floor}"


def _bounds(found: Audit) -> str:
    rows = []
    for name, views in found.bounds.items():
        claimed = "none" if name == "without noise" else f"{found.plan.epsilon:g}"
        for view, bound in views.items():
            rows.append(
                (name, view, claimed, f"{bound.epsilon:.2f}", f"{bound.gaussian:.2f}",
                 f"{bound.right} of {bound.guesses}")
            )  # fmt: skip
    planned, promised = found.bounds.get("as planned", {}).values(), found.plan.epsilon
    verdict = "<p>Nothing found contradicts the plan.</p>"
    if any(b.gaussian > promised for b in planned):
        verdict = "<p class=bad>The Gaussian bound is above the plan: look into it.</p>"
    if any(b.epsilon > promised for b in planned):
        verdict = "<p class=bad>More was found than the plan allows: it is not kept.</p>"
    return verdict + _table(
        ("run", "auditor", "epsilon claimed", "epsilon at least", "at least, if Gaussian",
         "right guesses"),
        rows,
    )  # fmt: skip


def _membership_rows(evidence: Iterable[Evidence]) -> list[tuple[str, ...]]:
    names = (
        "TPR at 1 % FPR", "TPR at 0.1 % FPR", "TPR at 0 FPR", "precision at 0.1 % FPR",
        "canaries' TPR at 1 % FPR",
    )  # fmt: skip
    return [
        (e.attack, NAMED[e.defence], *(_cell(e.figures[name]) for name in names))
        for e in evidence
        if e.adversary == "outsider" and names[0] in e.figures and e.defence in ("none", "dp")
    ]


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
    curve.set(xscale="log", yscale="log", xlabel="false positive rate", ylabel="true positive rate",
              title="likelihood ratios (LiRA), all targets")  # fmt: skip
    risks.set(xlabel="chance to tell that a record is in", ylabel="share of records",
              title="exposure by record")  # fmt: skip
    for axes in (curve, risks):
        _plain(axes)
    return picture


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    axes.title.set_fontsize(9)


def _all(evidence: Iterable[Evidence]) -> str:
    rows = (
        (
            e.adversary, e.attack, NAMED[e.defence], e.checkpoint, html.escape(e.setting),
            "; ".join(f"{name} {_number(f)}" for name, f in e.figures.items()), f"{e.seconds:.1f}",
        )
        for e in evidence
    )  # fmt: skip
    heads = ("adversary", "attack", "defence", "model", "setting", "figures (floor)", "seconds")
    return _table(heads, rows)


def _number(figure: Figure) -> str:
    return f"{figure.value:.3g}" + ("" if figure.floor is None else f" ({figure.floor:.3g})")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(one)}</th>" for one in heads)
    body = "".join("<tr>" + "".join(f"<td>{one}</td>" for one in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><tr>{head}</tr>{body}</table></div>"


def _picture(picture: Picture) -> str:
    content = io.BytesIO()
    picture.savefig(content, format="png", dpi=130)
    encoded = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="" src="data:image/png;base64,{encoded}">'


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1f24; }}
h1 {{ margin-bottom: 0; }} h2 {{ margin: 2rem 0 .5rem; font-size: 1.1rem; }}
.note {{ border-left: 3px solid #d1701f; padding-left: .8rem; color: #57606a; }}
.legend, .floor {{ color: #57606a; }} .bad {{ color: #b3261e; font-weight: 600; }}
.good {{ color: #1a7f37; font-weight: 600; }} img {{ max-width: 100%; }}
.wide {{ overflow-x: auto; }} table {{ border-collapse: collapse; font-size: .87rem; width: 100%; }}
th, td {{ border-bottom: 1px solid #d0d7de; padding: .35rem .5rem; text-align: left;
  vertical-align: top; }}
@media print {{ body {{ margin: 0; max-width: none; font-size: 11px; }} h2 {{ break-after: avoid; }}
  tr, img {{ break-inside: avoid; }} }}
</style></head><body>
{body}
</body></html>
"""
