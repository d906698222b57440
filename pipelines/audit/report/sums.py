"""Show what a participant reads out of the sums of a job of trees, and what stops it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from blindsum.pipelines.audit.evidence import NAMED, Evidence, Figure

TRIED = {
    "histograms": "Every silo learns the sums of both derivatives by node, feature and bin, and "
    "subtracts its own. The attacker looks for bins that hold one record (its two derivatives fit "
    "together), finds the same record in the bins of all other features, takes bins with a few "
    "records apart (only one set of records has their sum), and subtracts what it knows from all "
    "rounds, to begin again with fewer records.",
    "leaves": "Every silo learns the sums of both derivatives by leaf, and subtracts its own. The "
    "attacker follows the other silos' records from tree to tree: only one set of them has the "
    "sums of a leaf. Each tree tells on which side of some thresholds a record is.",
}
STOPS = {
    "histograms": "Without noise neither encryption nor more silos stop it: the total is the "
    "result. With more silos the attacker only does not know whose record it is. Records that no "
    "tree tells apart stay mixed up.",
    "leaves": "Without noise, encryption does not stop it: the total is the result. With many "
    "records several sets have the same sums, and the attacker gets through a few trees only; a "
    "better one may get further.",
}
NOISE = (
    "The plan's noise is far larger than what one record adds, so no sum is that of a record any "
    "more. The attacker then guesses the most frequent bins."
)
FIGURES = ("exact records", "told apart", "right bins")


def sums_part(
    evidence: Iterable[Evidence],
    cell: Callable[[Figure | None], str],
    table: Callable[[Sequence[str], Iterable[Sequence[str]]], str],
) -> list[str]:
    """Return the report's section, or nothing for a job without such attacks."""
    tried = [e for e in evidence if e.attack in TRIED and e.defence in ("none", "dp")]
    if not tried:
        return []
    attack, limits = TRIED[tried[0].attack], STOPS[tried[0].attack]
    heads = ("setting", "defence", "label and all bins exact", FIGURES[1], "right bins per record")
    rows = [(e.setting, NAMED[e.defence], *(cell(e.figures[f]) for f in FIGURES)) for e in tried]
    return [
        "<h2>What a silo reads out of the sums</h2>",
        f"<p>{attack}</p>",
        f"<p>{limits} {NOISE}</p>",
        table(heads, rows),
        (
            "<p class=legend>Shares of the other silos' records, for which this silo's own stand. "
            "Told apart: the attacker knows that there is exactly one such record, with its label "
            "and at least an interval for each feature. The guess knows each label and what is "
            "frequent among the held-out records.</p>"
        ),
    ]
