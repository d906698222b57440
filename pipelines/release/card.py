"""The model card of a release: what the run's own files say about the model, in Markdown.

Headings follow Mitchell et al., Model Cards for Model Reporting (FAT* 2019). What Blindsum cannot
know, such as who should use the model, is left to its authors in so many words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blindsum.pipelines.run.job_words import inputs
from blindsum.platform.job.schema import Job
from blindsum.platform.prediction.released import Terms

UNKNOWN = "*Not known to Blindsum: the consortium has to write it.*"


def model_card(
    job: Job, terms: Terms, summary: Mapping[str, Any], statement: Mapping[str, Any]
) -> str:
    """Return the card."""
    silos = ", ".join(job.roster)
    lines = [
        f"# {terms.job}",
        "",
        f"Run {terms.run}, after round {terms.round}. Trained by {len(job.roster)} silos: {silos}.",
        "",
        "## The model",
        "",
        f"- Kind: {terms.model.kind}; {terms.average}",
        "- Input: " + inputs(job, ""),
        f"- Output: {_outputs(terms)}",
        f"- Format: `model.blindsum`, weights as safetensors. Made by Blindsum {terms.blindsum}.",
        "",
        "## Held-out figures",
        "",
        *_figures(summary),
        "",
        "## Privacy",
        "",
        *_privacy(statement),
        "",
        "## Limits",
        "",
        "- The figures hold for records like the silos' held-out ones, and for no others.",
        *(f"- Not covered by the guarantee: {one}" for one in _not_covered(statement)),
        "",
        "## Intended use, and groups of people",
        "",
        UNKNOWN,
        "",
    ]
    return "\n".join(lines)


def part_of(content: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Return an object within a JSON file; an empty one if there is none."""
    found: Any = content
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _outputs(terms: Terms) -> str:
    if terms.target:
        return "the probability of each class of " + terms.target.column
    named = [f"{name} ({task.kind})" for name, task in (terms.tasks or {}).items()]
    count = f"{len(named)} {'task' if len(named) == 1 else 'tasks'}"
    return f"{count}: {', '.join(named[:20])}{' and others' if len(named) > 20 else ''}"


def _figures(summary: Mapping[str, Any]) -> list[str]:
    metrics, found = part_of(summary, "metrics"), list[str]()
    for name, value in metrics.items():
        if name.endswith(("_low", "_high")) or not isinstance(value, int | float):
            continue
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        known = isinstance(low, int | float) and isinstance(high, int | float)
        within = f" (95 %: {low:.3g} to {high:.3g})" if known else ""
        found.append(f"- {name}: {value:.4g}{within}")
    return found or ["None were measured."]


def _privacy(statement: Mapping[str, Any]) -> list[str]:
    parameters = part_of(statement, "Privacy parameters")
    found = [f"- {name}: {_said(one)}" for name, one in parameters.items()]
    unit = part_of(statement, "Unit of privacy").get("unit")
    return [*found, *([f"- unit: {unit}"] if unit else []), "- all of it: `privacy-statement.json`"]


def _said(one: Any) -> str:
    if not isinstance(one, Mapping):
        return str(one)
    return ", ".join(f"{name} {value}" for name, value in one.items())


def _not_covered(statement: Mapping[str, Any]) -> list[str]:
    return list(map(str, part_of(statement, "What is not covered").values()))
