"""Checks that command lines in manifests, units and documents are ones that Blindsum has."""

from __future__ import annotations

import re
import shlex
from typing import Any

import typer

from blindsum.pipelines.cli.app import app


def blindsum_commands(text: str) -> list[list[str]]:
    """Return the arguments of each call of `blindsum` in a shell's text."""
    lines = [line.partition("  #")[0] for line in text.splitlines()]
    found = [re.search(r"(?:^|[\s/`])blindsum ((?!=)[a-z].*?)(?:`|$)", line) for line in lines]
    return [shlex.split(one[1].partition(" | ")[0]) for one in found if one]


def parsed(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the command that arguments name, and its parameters.

    Raises:
        LookupError: there is no such command.
        Exception: typer's, if the command does not take these options and arguments.
    """
    command: Any = typer.main.get_command(app)
    context = command.make_context("blindsum", list(arguments), resilient_parsing=True)
    path: list[str] = []
    while hasattr(command, "resolve_command"):
        name, command, arguments = command.resolve_command(context, list(arguments))
        if command is None:
            raise LookupError(f"no such command: blindsum {' '.join([*path, *arguments])}")
        path.append(name)
    return " ".join(path), command.make_context(name, list(arguments)).params
