"""Print line coverage by room, and fail if a room falls below its floor.

    make coverage

Counts what the tests' own processes run. Silos and aggregators that are Ray actors run elsewhere
and are not counted; most of their code also runs as plain objects or threads in the tests.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

FLOORS = {
    "actors": 96,
    "he": 99,
    "infra": 75,
    "pipelines": 90,
    "platform": 97,
}
"""Percent. Raise a floor when the coverage has risen; never lower one to pass."""


def by_room(report: dict[str, object]) -> dict[str, tuple[int, int]]:
    """Return for each room its covered lines and all its lines."""
    covered: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    files = report["files"]
    if not isinstance(files, dict):
        raise SystemExit("this is no report of coverage json")
    for name, file in files.items():
        parts = Path(name).parts
        room = next((part for part in parts if part in FLOORS), None)
        if room:
            covered[room] += file["summary"]["covered_lines"]
            lines[room] += file["summary"]["num_statements"]
    return {room: (covered[room], lines[room]) for room in FLOORS}


def main() -> None:
    rooms = by_room(json.loads(Path(sys.argv[1]).read_text()))
    fallen = []
    for room, (covered, lines) in rooms.items():
        percent = 100 * covered / max(lines, 1)
        print(f"{room:10} {percent:5.1f} % of {lines} lines (floor {FLOORS[room]} %)")
        if percent < FLOORS[room]:
            fallen.append(room)
    if fallen:
        sys.exit(f"coverage fell in {', '.join(fallen)}")


if __name__ == "__main__":
    main()
