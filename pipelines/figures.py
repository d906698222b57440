"""A round as MLflow shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blindsum.actors.round_report import RoundReport
    from blindsum.pipelines.run import Run


def figures(run: Run, report: RoundReport) -> dict[str, float]:
    """One round's figures as MLflow shows them."""
    metrics = report.metrics
    named = {
        "saturated_share": metrics.saturated,
        "large_share": metrics.large, "range": report.range, "attempt": report.attempt,
        "silos": len(report.roster),
        "bytes_up": report.up_bytes, "bytes_down": report.down_bytes,
        "seconds_round": report.seconds,
    }  # fmt: skip
    if metrics.held_out:
        named |= metrics.held_out.tracked()
    if report.metrics_epsilon is not None:
        named["metrics_epsilon_spent"] = report.metrics_epsilon
    if metrics.unclipped is not None and report.clip_norm is not None:
        named |= {"unclipped_share": metrics.unclipped, "clip_norm": report.clip_norm}
    named |= {f"seconds_{phase}": seconds for phase, seconds in report.phases.items()}
    for silo, spent in report.epsilon.items():
        named[f"epsilon_spent.{silo}"] = spent
        named[f"epsilon_left.{silo}"] = max(0.0, (run.budget(silo) or 0.0) - spent)
    if report.epsilon:
        named["epsilon_spent"] = max(report.epsilon.values())
    return named
