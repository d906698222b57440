"""Tables for the terminal in which no figure is ever cut.

If a table is too wide for the terminal, its last column wraps where that holds text; otherwise each
row becomes a block of lines. (Rich would cut "3.000" to "3.0..." instead.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_GAP = 2
_LEAST_TEXT = 22
"""Fewest columns in which text is still readable beside something else."""


class Sheet:
    """A table with a heading for each column; without a line of headings if all are "".

    Args:
        title: a line above the table.
        text: the last column holds text, which may wrap.
    """

    def __init__(self, *headings: str, title: str = "", text: bool = False) -> None:
        self._headings, self._title, self._text = headings, title, text
        self._rows: list[tuple[str, ...]] = []

    def add(self, *cells: str) -> None:
        """Add a row. Cells are plain text: no markup is read in them."""
        self._rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._title:
            yield Text(self._title, style="italic")
        widths = [
            max(Text(cell).cell_len for cell in column)
            for column in zip(self._headings, *self._rows, strict=True)
        ]
        before = sum(widths[:-1]) + _GAP * (len(widths) - 1)
        if before + widths[-1] <= options.max_width:
            yield self._table(widths)
        elif self._text and before + _LEAST_TEXT <= options.max_width:
            yield self._table([*widths[:-1], options.max_width - before])
        else:
            yield from self._blocks()

    def _table(self, widths: Sequence[int]) -> Table:
        table = Table(
            box=None,
            padding=(0, _GAP, 0, 0),
            pad_edge=False,
            header_style="bold",
            show_header=any(self._headings),
        )
        for heading, width in zip(self._headings, widths, strict=True):
            table.add_column(Text(heading), width=width, overflow="fold")
        for row in self._rows:
            table.add_row(*map(Text, row))
        return table

    def _blocks(self) -> RenderResult:
        for first, *rest in self._rows:
            yield Text(first, style="bold", overflow="fold")
            named = zip(self._headings[1:], rest, strict=True)
            yield Padding(Pairs((name, cell) for name, cell in named if cell), (0, 0, 0, 2))


class Pairs:
    """Labels with a text each, which wraps beside its label, or below it if there is no room."""

    def __init__(self, rows: Iterable[tuple[str, str]] = ()) -> None:
        self._rows = list(rows)

    def add(self, label: str, text: str) -> None:
        """Add a row. Both are plain text: no markup is read in them."""
        self._rows.append((label, text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        longest = max((Text(text).cell_len for _, text in self._rows), default=0)
        room = options.max_width - _GAP - min(_LEAST_TEXT, longest)
        labels = [Text(name, style="bold", overflow="fold") for name, _ in self._rows]
        beside = max((one.cell_len for one in labels if one.cell_len <= room), default=0)
        for label, (_, text) in zip(labels, self._rows, strict=True):
            if label.cell_len <= room:
                row = Table.grid(padding=(0, _GAP, 0, 0))
                row.add_column(width=beside)
                row.add_column(overflow="fold")
                row.add_row(label, Text(text))
                yield row
            else:
                if label:
                    yield label
                yield Padding(Text(text, overflow="fold"), (0, 0, 0, 2))
