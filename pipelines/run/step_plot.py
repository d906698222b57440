"""Step functions with bands, drawn as SVG: a page of many is made at once, and stays small."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 330, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 24, 34
_COLOURS = (
    *("#2c6fbb", "#d1701f", "#1a7f37", "#b3261e", "#7b4fb0"),
    *("#8a5a00", "#c2478f", "#57606a", "#9a9a00", "#1797a6"),
)

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Steps:
    """A step function, and perhaps a point to the right of it.

    Attributes:
        name: for the legend.
        edges: where it steps, ascending, [n].
        values: on both sides of them, [n + 1].
        reach: how far the band extends on each side, [n + 1].
        point: its value and its reach, for records in which the feature is missing.
    """

    name: str
    edges: Reals
    values: Reals
    reach: Reals
    point: tuple[float, float] | None = None

    @property
    def extent(self) -> Reals:
        """All values that a plot has to show."""
        points = [] if self.point is None else [self.point[0] - self.point[1], sum(self.point)]
        return np.concatenate([self.values - self.reach, self.values + self.reach, points])


def step_plot(title: str, steps: Sequence[Steps], x_label: str = "") -> str:
    """Return an svg element with those functions, which have the same edges."""
    edges = steps[0].edges
    room = float(np.ptp(edges)) / max(len(edges) - 1, 1) or 0.5
    ends = np.concatenate([[edges[0] - room], edges, [edges[-1] + room]])
    has_point = any(one.point for one in steps)
    x = _Scale(ends[0], ends[-1] + 2 * room * has_point, _LEFT, WIDTH - _RIGHT)
    every = np.concatenate([one.extent for one in steps])
    low, high = float(every.min()), float(every.max())
    y = _Scale(low, high if high > low else low + 1.0, HEIGHT - _BOTTOM, _TOP)
    parts = [_text(_LEFT, 14, title, "start", 12), *_axes(x, y, ends, x_label)]
    for i, one in enumerate(steps):
        parts += _drawn(one, ends, x, y, _COLOURS[i % len(_COLOURS)], ends[-1] + room)
    for i, one in enumerate(steps if len(steps) > 1 else ()):
        colour = _COLOURS[i % len(_COLOURS)]
        parts.append(_text(WIDTH - _RIGHT, 34 + 11 * i, one.name, "end", 9, colour))
    if has_point:
        parts.append(_text(x(ends[-1] + room), HEIGHT - 20, "missing", "middle", 9))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="system-ui, sans-serif">{"".join(parts)}</svg>'
    )


@dataclass(frozen=True)
class _Scale:
    """From values to pixels."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.first + share * (self.last - self.first)

    def ticks(self, count: int, high: float) -> list[float]:
        ticks = MaxNLocator(count).tick_values(self.low, high)
        return [float(tick) for tick in ticks if self.low <= tick <= high]


def _axes(x: _Scale, y: _Scale, ends: Reals, x_label: str) -> list[str]:
    bottom = HEIGHT - _BOTTOM
    parts = [_line(_LEFT, bottom, WIDTH - _RIGHT, bottom), _line(_LEFT, _TOP, _LEFT, bottom)]
    for tick in x.ticks(5, float(ends[-1])):
        parts.append(_text(x(tick), HEIGHT - 20, f"{tick:g}", "middle", 9))
    for tick in y.ticks(4, y.high):
        parts.append(_line(_LEFT - 3, y(tick), _LEFT, y(tick)))
        parts.append(_text(_LEFT - 6, y(tick) + 3, f"{tick:g}", "end", 9))
    if x_label:
        parts.append(_text(WIDTH / 2, HEIGHT - 6, x_label, "middle", 9))
    return parts


def _drawn(one: Steps, ends: Reals, x: _Scale, y: _Scale, colour: str, beside: float) -> list[str]:
    upper, lower = (_corners(ends, one.values + sign * one.reach, x, y) for sign in (1, -1))
    parts = []
    if one.reach.any():
        band = " ".join([*upper, *reversed(lower)])
        parts.append(f'<polygon points="{band}" fill="{colour}" fill-opacity="0.18"/>')
    line = " ".join(_corners(ends, one.values, x, y))
    parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    if one.point:
        value, reach = one.point
        at = x(beside)
        parts.append(_line(at, y(value - reach), at, y(value + reach), colour))
        parts.append(f'<circle cx="{at:.1f}" cy="{y(value):.1f}" r="3" fill="{colour}"/>')
    return parts


def _corners(ends: Reals, values: Reals, x: _Scale, y: _Scale) -> list[str]:
    return [
        f"{x(end):.1f},{y(value):.1f}"
        for value, pair in zip(values, pairwise(ends), strict=True)
        for end in pair
    ]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str = "#8a8a8a") -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        'stroke-width="1"/>'
    )


def _text(x: float, y: float, text: str, anchor: str, size: int, colour: str = "#1b1f24") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{colour}">{html.escape(text)}</text>'
    )
