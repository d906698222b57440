"""A figure of the audit has one meaning, an interval, and a colour for what it shows."""

from blindsum.pipelines.audit.attacks.canaries import Bound
from blindsum.pipelines.audit.command import _cell, _show
from blindsum.pipelines.audit.evidence import Evidence, Figure
from blindsum.pipelines.audit.outcome import QUICK, Audit
from blindsum.pipelines.audit.report import page
from blindsum.pipelines.audit.report.page import as_page
from blindsum.platform.privacy.plan import plan
from tests.conftest import MakeJob

CHANCE = Figure(0.649, 0.12, 1.0, floor=0.5)
BEATEN = Figure(0.9, 0.8, 1.0, floor=0.5)
HARMLESS = Figure(0.355, 0.0, 0.9, floor=0.5)


def test_a_figure_whose_interval_decides_nothing_is_neither_red_nor_green() -> None:
    """64.9 % of generated records were nearer to training records, and the page was green."""
    assert CHANCE.undecided and "class=unclear" in page._cell(CHANCE)
    assert not BEATEN.undecided and "class=bad" in page._cell(BEATEN)
    assert not HARMLESS.undecided and "class=good" in page._cell(HARMLESS)
    assert "(95 %: 12.0% to 100.0%)" in page._cell(CHANCE)
    assert "guessing: 50.0%" in page._cell(CHANCE)
    assert _cell(CHANCE) == "64.9% (95 %: 12.0% to 100.0%; guessing: 50.0%), may be chance"
    assert _cell(BEATEN).endswith("BEATS guessing") and _cell(HARMLESS).endswith("50.0%)")
    # Of a distance, less is the stronger attack.
    assert Figure(1.0, 0.5, 3.0, floor=2.0, less=True).undecided
    assert not Figure(2.5, 0.5, 3.0, floor=2.0, less=True).undecided
    assert not Figure(0.3).undecided and page._number(Figure(0.3)) == "0.3"


def test_the_terminal_and_the_page_show_the_same_bounds(
    make_job: MakeJob, tmp_path, capsys
) -> None:  # type: ignore[no-untyped-def]
    """The terminal said 5.93 where the page's main column said 2.30."""
    job = make_job().job
    own = plan(job, "alder")
    assert own
    found = Audit(job, "alder", QUICK, own)
    found.findings.evidence.append(
        Evidence(
            "generator", "participant", "dp", "running", {"nearer to training records": CHANCE}
        )
    )
    found.bounds = {"as planned": {"white box": Bound(2.3, 5.93, 200, 150)}}
    report = as_page(found, "run")
    _show(found, tmp_path / "report.html", tmp_path)
    said = capsys.readouterr().out
    assert "white box 2.30 (if the mechanism is Gaussian: 5.93)" in said
    assert "<td>2.30</td><td>5.93</td>" in report
    assert "0.649 (95 %: 0.12 to 1; guessing: 0.5)" in report and "may be chance" in said
