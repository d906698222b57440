"""Draw the accuracy and the epsilon of one run of the demo, as README.md shows them.

    make demo
    python benchmarks/demo.py examples/solubility/runs/NAME --plot docs/solubility.svg

Reads the figures that the run left in its folder (`rounds.jsonl`); it trains nothing. The band is
the accuracy's 95 % interval (`blindsum.platform.evaluation.intervals`). All rounds are scored on
the same records, so from round to round the curve moves less than the band is wide.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl

from blindsum.actors.round_report import RoundReport
from blindsum.pipelines.run.run_log import read_log
from blindsum.platform.evaluation.figures import HeldOut
from blindsum.platform.evaluation.intervals import Interval, of_share, with_interval
from blindsum.platform.job.schema import Job

mpl.use("Agg")
from matplotlib import pyplot as plt

BLUE, ORANGE, GREY = "#2c6fbb", "#d1701f", "#777777"


def plot(job: Job, reports: list[RoundReport], path: Path) -> None:
    privacy = job.privacy.model_dump()
    number = [report.round for report in reports]
    found = [report.metrics.held_out for report in reports]
    held_out = [one for one in found if isinstance(one, HeldOut)]
    records, guess = held_out[-1].records, held_out[-1].largest_class
    accuracy = [one.accuracy for one in held_out]
    low, high = zip(*(of_share(one, records) for one in accuracy), strict=True)
    epsilon = [max(report.epsilon.values()) for report in reports]

    mpl.rcParams["svg.hashsalt"] = "blindsum"  # the same run draws the same file
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.9), layout="constrained")
    left.fill_between(number, low, high, color=BLUE, alpha=0.2, lw=0, label="95 % interval")
    left.plot(number, accuracy, color=BLUE, label="federated model")
    left.axhline(guess, color=GREY, ls=":", label=f"always the largest class, {guess:.3f}")
    last = with_interval(accuracy[-1], Interval(low[-1], high[-1]))
    where = (number[-1], high[-1])
    left.annotate(last, where, (0, 5), textcoords="offset points", ha="right", color=BLUE)
    left.set(ylim=(0, 1), title=f"accuracy on {records} held-out records")
    right.plot(number, epsilon, color=ORANGE, label="charged to every silo's ledger")
    right.axhline(privacy["epsilon"], color=GREY, ls=":", label=f"budget {privacy['epsilon']:g}")
    right.set(ylim=(0, 1.15 * privacy["epsilon"]))
    right.set_title(f"epsilon spent, at delta {privacy['delta']:g}")
    for axis in (left, right):
        axis.set(xlabel="round", xlim=(0, number[-1]))
        axis.title.set_fontsize(11)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, loc="lower right", fontsize=9)
    figure.savefig(path, dpi=100, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path, help="folder of a run under differential privacy")
    parser.add_argument("--plot", type=Path, required=True, help="picture to write")
    given = parser.parse_args()
    kept = read_log(given.run)
    plot(kept.job_file.job, kept.reports, given.plot)


if __name__ == "__main__":
    main()
