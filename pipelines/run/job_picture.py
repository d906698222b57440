"""A picture of a job, made of text: who keeps what, what leaves, what comes back, what it spends.

It is drawn from the job and the privacy plans, which are public. Nothing in it was read from a
silo's table, and nothing tells of private tasks.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from rich.box import ROUNDED
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from blindsum.actors.summing import first_range, parameters_of
from blindsum.pipelines.run.job_words import (
    MOST_NAMED,
    adds,
    comes_back,
    held_out,
    inputs,
    leaves,
    listed,
    predicted,
    releases,
    trains,
)
from blindsum.pipelines.run.traffic import Traffic, frozen_count, parameter_count, traffic
from blindsum.pipelines.show.console import plain, size
from blindsum.pipelines.show.table import Pairs, Sheet
from blindsum.platform.errors import BlindsumError
from blindsum.platform.job.file import JobFile
from blindsum.platform.job.schema import Job
from blindsum.platform.privacy.plan import Accountant, PrivacyPlan, plan

WIDEST = 100
"""Columns. A file has no width, and longer lines are hard to read."""
_POINTS = 20
"""Rounds whose epsilon is drawn. Each takes about 15 ms."""
_MOST_BUDGETS, _MOST_ALIKE = 6, 3
"""Of silos' budgets, and of the names beside each."""
_LEVELS = "▁▂▃▄▅▆▇█"
_ASCII = str.maketrans(_LEVELS + "│▼▲", "_.-=+*%#" + "|v^")
"""What stands for a sign where the output cannot show it. Rich replaces its boxes itself."""


@dataclass(frozen=True, kw_only=True)
class Messages:
    """The bytes of one silo's messages in a round, and of all silos' in the whole run."""

    up: float
    down: float
    whole_up: float
    whole_down: float
    at_most: bool = False

    @classmethod
    def of(cls, job: Job, sent: Traffic) -> Messages:
        """Return the messages of a run in which all silos take part."""
        count = len(job.silos)
        a_round = (sent.up_a_round / count, sent.down_a_round / count)
        return cls(
            up=a_round[0],
            down=a_round[1],
            whole_up=sent.up,
            whole_down=sent.down,
            at_most=sent.at_most,
        )

    def said(self, count: float) -> str:
        """Return a number of bytes for people."""
        return f"{'at most ' if self.at_most else ''}{size(count)}"


@dataclass(frozen=True, kw_only=True)
class JobPicture:
    """A picture of a job, which rich prints.

    Attributes:
        text: the job file, for its patterns of column names; "" if it is not at hand.
        parameters: of the model that the silos share; None if only its code knows their number.
        frozen: the number of the model's parameters that are not trained.
        plans: the plans of those silos whose plan is known.
        rounds: the number of rounds that the budget covers.
        messages: None if their size is not known.
        owned: for each silo, whether an owner's file is in force; empty if that is not known.
        hub: who besides the silos sees what is released, in a word.
    """

    job: Job
    text: str = ""
    parameters: int | None = None
    frozen: int = 0
    plans: Mapping[str, PrivacyPlan] = field(default_factory=dict)
    rounds: int
    messages: Messages | None = None
    owned: Mapping[str, bool] = field(default_factory=dict)
    hub: str = "driver"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        scored = self.job.model.is_scored
        what = "train one model together" if scored else "count what they hold together"
        together = f": {len(self.job.silos)} silos {what}"
        drawn = Group(
            Text.assemble((self.job.name, "bold"), together),
            _box("at each silo", self._silos(), Text(), _rows(self._training())),
            self._arrows(),
            _box("at the aggregator", self._adding()),
            _box("released", _rows(releases(self.job, self.parameters, self.frozen, self.hub))),
            _box("budget", *self._budget()),
        )
        within = options.update_width(min(options.max_width, WIDEST))
        for line in console.render_lines(drawn, within, pad=False):
            for text, style, control in line:
                kept = text.translate(_ASCII) if options.ascii_only else text
                yield Segment(kept, style, control)
            yield Segment.line()

    def as_text(self, width: int = WIDEST) -> str:
        """Return the picture without colour, in lines of at most that many columns."""
        page = Console(file=io.StringIO(), width=width, color_system=None)
        with page.capture() as drawn:
            page.print(self)
        return "\n".join(line.rstrip() for line in drawn.get().rstrip().split("\n"))

    def _silos(self) -> Sheet:
        owners = ("owner's file",) if self.owned else ()
        table = Sheet("silo", *owners, "its table, which stays there", text=True)
        silos = self.job.silos
        most = MOST_NAMED if len(silos) > MOST_NAMED + 1 else len(silos)
        for silo in silos[:most]:
            owner = ("in force" if self.owned.get(silo.name) else "none",) if self.owned else ()
            table.add(silo.name, *owner, plain(silo.data))
        if left := len(silos) - most:
            table.add(f"and {left} more", *self._owners_of_the_rest(most), "")
        return table

    def _owners_of_the_rest(self, most: int) -> tuple[str, ...]:
        if not self.owned:
            return ()
        rest = [self.owned.get(silo.name, False) for silo in self.job.silos[most:]]
        return (f"in force at {sum(rest)}" if any(rest) else "none",)

    def _training(self) -> Iterator[tuple[str, str]]:
        job = self.job
        count, least = len(job.silos), job.least_silos
        needed = f"all {count}" if least == count else f"at least {least} of {count}"
        yield "take part", f"{needed} silos in every round"
        yield "goes in", inputs(job, self.text)
        if not job.model.is_scored:
            yield "labels", predicted(job.data)
            yield "counted", trains(job, self.rounds)
            return
        yield "predicted", predicted(job.data)
        yield "held out", f"{held_out(job.data)}: they test the model and never train it"
        yield "training", trains(job, self.rounds)

    def _arrows(self) -> _Arrows:
        sent = self.messages
        up, down = ("every round", "every round")
        if sent:
            up, down = (f"{sent.said(count)} a round" for count in (sent.up, sent.down))
        return _Arrows(
            (f"each silo sends {up}", leaves(self.job)),
            (f"each silo receives {down}", comes_back(self.job)),
        )

    def _adding(self) -> Text:
        text, sent = adds(self.job), self.messages
        if sent:
            whole = f"{sent.said(sent.whole_up)} up and {sent.said(sent.whole_down)} down"
            text += f"\nover all rounds and silos: {whole}"
        return Text(text)

    def _budget(self) -> Iterator[RenderableType]:
        section = self.job.privacy
        if section.noise == "none" or not self.job.private:
            yield Text("NO differential privacy: epsilon is unbounded")
            return
        of, record = "models reveal", "training record"
        if not self.job.model.is_scored:
            of, record = "figures reveal", "record"
        yield Text(
            f"epsilon bounds what the {of} of any one {record}: less is better "
            f"(delta {section.delta:g}). The bars' full height is the limit."
        )
        if self.plans:
            yield _rows(self._spending())
        else:
            yield Text(f"at most {section.epsilon:g} over all rounds")

    def _spending(self) -> Iterator[tuple[str, str]]:
        """Yield bars, and the epsilon that they show, for silos with the same budget together."""
        alike: dict[tuple[float, float, int], list[str]] = {}
        for name, own in self.plans.items():
            key = (own.epsilon, own.noise_multiplier, own.rounds_within_budget)
            alike.setdefault(key, []).append(name)
        groups = list(alike.values())
        most = _MOST_BUDGETS if len(groups) > _MOST_BUDGETS + 1 else len(groups)
        for names in groups[:most]:
            every = len(names) == len(self.job.silos)
            bars, spent = _spent(self.plans[names[0]], self.rounds)
            yield bars, f"{'every silo' if every else listed(names, _MOST_ALIKE)}: {spent}"
        if left := groups[most:]:
            yield "", f"and {len(left)} other budgets, of {sum(map(len, left))} silos"


def planned_picture(job_file: JobFile) -> JobPicture:
    """Return the picture of a job of which no silo was asked anything.

    What a fault in the job leaves unknown is not drawn: `blindsum check` names the fault.
    """
    job, plans = job_file.job, dict[str, PrivacyPlan]()
    values, frozen, messages = None, 0, None
    with suppress(BlindsumError):
        values, frozen = parameter_count(job), frozen_count(job)
    with suppress(BlindsumError):
        plans = {name: own for name in job.roster if (own := plan(job, name))}
    rounds = min([job.training.rounds, *(own.rounds_within_budget for own in plans.values())])
    if values is not None and (plans or job.privacy.noise == "none"):
        with suppress(BlindsumError):
            messages = _messages(job, plans, values, rounds)
    return JobPicture(
        job=job,
        text=job_file.text,
        parameters=values,
        frozen=frozen,
        plans=plans,
        rounds=rounds,
        messages=messages,
    )


def _messages(job: Job, plans: Mapping[str, PrivacyPlan], values: int, rounds: int) -> Messages:
    parameters = parameters_of(job)
    bound = first_range(job, plans.get(job.roster[0]))
    return Messages.of(job, traffic(job, parameters, values, bound, rounds))


class _Arrows:
    """An arrow downwards and one upwards, each with its heading and text beside it."""

    def __init__(self, down: tuple[str, str], up: tuple[str, str]) -> None:
        self._texts = [Text.assemble((a, "bold"), f"\n{b}", overflow="fold") for a, b in (down, up)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = max(1, (options.max_width - 10) // 2)
        down, up = (text.wrap(console, room) for text in self._texts)
        height = max(len(down), len(up))
        table = Table.grid(padding=(0, 2, 0, 0))
        for width in (3, room, 1, room):
            table.add_column(width=width)
        table.add_row(
            Text("\n".join([*(["  │"] * (height - 1)), "  ▼"])),
            Text("\n").join(down),
            Text("\n".join(["▲", *(["│"] * (height - 1))])),
            Text("\n").join(up),
        )
        yield table


def _box(title: str, *parts: RenderableType) -> Panel:
    heading = Text(title, style="bold")
    return Panel(Group(*parts), box=ROUNDED, title=heading, title_align="left")


def _rows(rows: Iterable[tuple[str, str]]) -> Pairs:
    """Return labels with their texts. Names that a text quotes are cut already; no character of
    either may change how the rest is shown."""
    return Pairs((plain(label), plain(text)) for label, text in rows)


@functools.lru_cache(maxsize=64)
def _spent(plan: PrivacyPlan, last: int) -> tuple[str, str]:
    """Return the epsilon that a plan spends by round, as bars whose full height is the limit, and
    in words.

    Args:
        last: the run's last round. Another silo's budget may end before this one.
    """
    points = min(last, _POINTS)
    rounds = [1 + round(i * (last - 1) / max(1, points - 1)) for i in range(points)]
    accountant = Accountant(plan)
    epsilons = [accountant.epsilon_after(number) for number in rounds[:-1]]
    planned = last == plan.rounds_within_budget
    epsilons.append(plan.epsilon_planned if planned else accountant.epsilon_after(last))
    # At a tiny delta, the bound of a few rounds alone can lie above that of the whole plan.
    shares = [min(1.0, epsilon / plan.epsilon) for epsilon in epsilons]
    heights = [round(len(_LEVELS) * share) for share in shares]
    bars = "".join(_LEVELS[max(1, height) - 1] for height in heights)
    first = f"{epsilons[0]:.3f} by round 1, " if last > 1 else ""
    return bars, f"{first}{epsilons[-1]:.3f} of {plan.epsilon:g} by round {last:,}"
