"""Reads YAML files into validated sections; every fault is reported with its line and a remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml.composer import Composer

from blindsum.platform.errors import BlindsumError, JobError

S = TypeVar("S", bound=BaseModel)
Place = tuple[str | int, ...]
Prepare = Callable[[dict[str, Any], Callable[[Place], str]], bool]
"""A change to a file's content before it is validated, given the function that says where a key
stands. It returns whether it changed anything."""

_FORMS = ("dict[str,Scaling]", "list[str]", "str", "bool", "int", "float")
_HINTS = {
    "missing": "Add it.",
    "int_type": "Write a whole number.",
    "int_parsing": "Write a whole number.",
    "int_from_float": "Write a whole number.",
    "float_type": "Write a number.",
    "float_parsing": "Write a number.",
    "finite_number": "Write a finite number.",
    "string_type": "Write text; put quotes around numbers that are names.",
    "dict_type": "Write keys and values, indented below it.",
    "list_type": "Write a list.",
}


if hasattr(yaml, "CSafeLoader"):
    # LibYAML splits the text, which a job of 20,000 columns makes long. Nodes are composed
    # in Python: LibYAML's own composer ends the process where brackets are nested too deeply.
    class _Reader(Composer, yaml.CSafeLoader):
        def __init__(self, stream: str) -> None:
            yaml.CSafeLoader.__init__(self, stream)
            Composer.__init__(self)

else:
    _Reader = yaml.SafeLoader  # type: ignore[assignment, misc]


class Loader(_Reader):
    """A loader of YAML's safe subset, in which 1e-5 is a number as in YAML 1.2, not text."""


class Dumper(yaml.SafeDumper):
    """A dumper whose output `Loader` reads back unchanged: text that looks like 1e5 is quoted."""


for kind in (Loader, Dumper):
    kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )


def dump(content: Any) -> str:
    """Return content as YAML text, with keys in their order."""
    return str(yaml.dump(content, Dumper=Dumper, sort_keys=False))


@dataclass(frozen=True)
class YamlFile(Generic[S]):
    """A validated section, the lines of its keys, and the text with overrides applied."""

    section: S
    lines: dict[Place, int]
    text: str


def read_section(
    path: Path,
    model: type[S],
    kind: str,
    start: str,
    overrides: Sequence[str] = (),
    error: type[BlindsumError] = JobError,
    prepare: Prepare | None = None,
) -> YamlFile[S]:
    """Read a YAML file, apply `key.key=value` overrides, and validate.

    Args:
        kind: the kind of file, for messages: "job".
        start: how to create such a file, for messages.
        prepare: changes the content, after overrides.

    Raises:
        error: the file cannot be read or a setting is wrong; lists every fault at once.
    """
    source = _source(path, kind, start, error)
    try:
        return parse_section(source, path.name, model, kind, start, overrides, prepare)
    except JobError as found:
        raise error(found.what, found.hint) from None


def parse_section(
    source: str,
    name: str,
    model: type[S],
    kind: str,
    start: str,
    overrides: Sequence[str] = (),
    prepare: Prepare | None = None,
) -> YamlFile[S]:
    """Parse YAML text, apply overrides, and validate, as `read_section` does for a file.

    Args:
        name: the name of the file that the text is from.

    Raises:
        JobError: the text or a setting is wrong; lists every fault at once.
    """
    content, lines = _parsed(source, name, kind, start)
    overridden = [_override(content, text) for text in overrides]
    changed = prepare(content, partial(_place, lines, overridden, name)) if prepare else False
    section = _validated(content, model, lines, overridden, name)
    return YamlFile(section, lines, dump(content) if overrides or changed else source)


def check_content(
    content: dict[str, Any], model: type[S], overrides: Sequence[str], prepare: Prepare
) -> YamlFile[S]:
    """Apply overrides to content that comes from no file, and validate, as `read_section` does.

    Messages name the keys alone, because there are no lines.

    Args:
        content: plain dicts, lists, text and numbers. Overrides change it.

    Raises:
        JobError: a setting is wrong; lists every fault at once.
    """
    for text in overrides:
        _override(content, text)
    prepare(content, lambda path: "")
    section = _validated(content, model, {}, [], "")
    return YamlFile(section, {}, dump(content))


def _validated(
    content: dict[str, Any],
    model: type[S],
    lines: dict[Place, int],
    overridden: list[Place],
    name: str,
) -> S:
    try:
        return model.model_validate(content)
    except ValidationError as found:
        faults = [
            _describe(fault, content, lines, overridden, name, model) for fault in found.errors()
        ]
        raise JobError("\n".join(dict.fromkeys(faults))) from None


def _source(path: Path, kind: str, start: str, error: type[BlindsumError]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error(f"there is no {kind} file {path}", start) from None
    except (OSError, RuntimeError, ValueError):
        raise error(
            f"the {kind} file {path} cannot be read", "It must be a text file in UTF-8."
        ) from None


def _parsed(
    source: str, name: str, kind: str, start: str
) -> tuple[dict[str, Any], dict[Place, int]]:
    lines: dict[Place, int] = {}
    try:
        if "*" in source and any(
            isinstance(event, yaml.AliasEvent) for event in yaml.parse(source, Loader=Loader)
        ):
            raise JobError(f"{name} uses YAML aliases (*name)", "Write the values out.")
        # A job may have 20,000 columns: the text is read once, and what is read is used twice.
        loader = Loader(source)
        try:
            node = loader.get_single_node()
            if node is not None:
                _index(node, (), lines, name)
            content = node and loader.construct_document(node)
        finally:
            loader.dispose()
    except (ValueError, AttributeError, RecursionError, OverflowError):
        raise JobError(
            f"{name} has a value that looks like a date or a number but is not valid as one",
            "Put quotes around text that looks like a date or a number; remove !! tags.",
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        last = source.rstrip("\n").count("\n")
        place = f", line {min(mark.line, last) + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it is not YAML"
        raise JobError(f"{name}{place}: {problem}", "Correct the YAML syntax.") from None
    if not isinstance(content, dict):
        raise JobError(f"{name} is not a {kind} file: it has no keys at its top level", start)
    return content, lines


def _index(node: yaml.Node, path: Place, lines: dict[Place, int], file: str) -> None:
    """Record the line of every key; refuse a duplicate key, which YAML silently overrides."""
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # not hashable: refused when the mapping is made
            line = key.start_mark.line + 1
            if key.value in seen:
                raise JobError(f"{file}, line {line}: duplicate key {key.value!r}", "Keep one.")
            seen.add(key.value)
            _index(value, (*path, key.value), lines, file)
            lines[(*path, key.value)] = line
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _index(item, (*path, i), lines, file)


def _override(content: dict[str, Any], text: str) -> Place:
    """Set one `key.key=value`. A list item is named by its position or its `name`."""
    dotted, equals, value = text.partition("=")
    if not equals or not dotted.strip():
        raise JobError(f"--set {text!r} does not have the form key.key=value")
    keys = dotted.strip().split(".")
    here: Any = content
    path: list[str | int] = []
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        step: str | int = key
        if isinstance(here, list):
            names = [item.get("name") if isinstance(item, dict) else None for item in here]
            number = int(key) if key.isascii() and key.isdigit() else -1
            position = names.index(key) if key in names else number
            if not 0 <= position < len(here):
                raise JobError(
                    f"--set {dotted}: there is no item {key!r}",
                    f"Choose one of: {', '.join(str(n or i) for i, n in enumerate(names))}.",
                )
            step = position
        elif not isinstance(here, dict):
            raise JobError(f"--set {dotted}: {'.'.join(keys[:depth])} has no keys")
        path.append(step)
        if last:
            try:
                here[step] = yaml.load(value, Loader=Loader)
            except (yaml.YAMLError, ValueError, AttributeError, RecursionError):
                raise JobError(f"--set {dotted}: {value!r} is not a YAML value") from None
        elif isinstance(here, dict):
            here = here.setdefault(step, {})
            if here is None:
                raise JobError(f"--set {dotted}: {key} has no keys")
        else:
            here = here[step]
    return tuple(path)


def _describe(
    fault: ErrorDetails,
    content: dict[str, Any],
    lines: dict[Place, int],
    overridden: list[Place],
    file: str,
    root: type[BaseModel],
) -> str:
    path, section = _resolve(fault["loc"], content, root)
    if "key" in fault.get("ctx", {}):  # a fault of one key, found among all of them
        path = (*path, fault["ctx"]["key"])
    kind = fault["type"]
    message, hint = fault["msg"].removeprefix("Value error, "), _HINTS.get(kind, "")
    if kind == "extra_forbidden":
        message = "unknown key"
        close = difflib.get_close_matches(str(path[-1]), section, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Known keys: {', '.join(section)}."
    elif kind in ("model_attributes_type", "model_type"):
        message, hint = "is not a section", "Write its keys, indented below it."
    elif kind == "missing":
        message = "is missing"
    elif kind == "string_pattern_mismatch":
        hint = "Use lower-case letters, digits, - and _, at most 40."
    elif kind == "union_tag_not_found":
        chooser = str(fault.get("ctx", {}).get("discriminator")).strip("'")
        message, hint = f"the key {chooser!r} is missing", "Add it."
    elif kind == "union_tag_invalid":
        context = fault.get("ctx", {})
        message = f"{context.get('tag')!r} is not known"
        hint = f"Choose one of: {context.get('expected_tags')}."
    dotted = ".".join(str(part) for part in path) or ("the file" if file else "the job")
    place = _place(lines, overridden, file, path)
    return f"{place}{dotted}: {message[:1].lower()}{message[1:]}. {hint}".rstrip()


def _place(lines: dict[Place, int], overridden: list[Place], file: str, path: Place) -> str:
    """Return where a key stands, to begin a message with. Content of no file has no place."""
    if any(path[: len(one)] == one or one[: len(path)] == path for one in overridden if path):
        return "--set: "
    if not file:
        return ""
    near = next((path[:i] for i in range(len(path), -1, -1) if path[:i] in lines), ())
    return f"{file}, line {lines.get(near, 1)}: "


def _resolve(
    location: Sequence[str | int], content: Any, root: type[BaseModel]
) -> tuple[Place, list[str]]:
    """Return the path as written in the file, and the keys known at its parent.

    Pydantic adds the tags of the chosen kinds to the path; the file has no such keys.
    """
    path: list[str | int] = []
    here: Any = content
    model = root
    known = list(root.model_fields)
    kinds: list[type[BaseModel]] = []
    is_name = False  # of a column or a task, which may be called as a setting is: date
    for depth, part in enumerate(location):
        if kinds:  # this part is the tag that chose among them
            model = next((k for k in kinds if _is_kind(k, str(part))), model)
            known, kinds = list(model.model_fields), []
            continue
        if part in _FORMS and not _has(here, part):  # the form that pydantic tried
            continue
        path.append(part)
        here = here[part] if _has(here, part) else None
        if is_name:
            is_name = False
            continue
        sections = _sections_of(model, part)
        is_name = _is_mapping(model, part)
        last = depth == len(location) - 1
        if len(sections) > 1:
            kinds = sections
        elif sections and not last:
            model, known = sections[0], list(sections[0].model_fields)
    return tuple(path), known


def _has(here: Any, part: str | int) -> bool:
    if isinstance(here, dict):
        return part in here
    return isinstance(here, list) and isinstance(part, int) and part < len(here)


def _sections_of(model: type[BaseModel], part: str | int) -> list[type[BaseModel]]:
    """Return the section classes that are allowed below a key."""
    field = model.model_fields.get(str(part)) if not isinstance(part, int) else None
    return _sections(field.annotation) if field else []


def _is_mapping(model: type[BaseModel], part: str | int) -> bool:
    field = model.model_fields.get(str(part))
    return field is not None and _has_mapping(field.annotation)


def _has_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict or any(map(_has_mapping, get_args(annotation)))


def _is_kind(model: type[BaseModel], tag: str) -> bool:
    """Return whether a tag such as `local` or `mlp` chooses this section."""
    choosers = (model.model_fields.get(name) for name in ("kind", "noise"))
    return any(c and tag in getattr(c.annotation, "__args__", ()) for c in choosers)


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [s for part in getattr(annotation, "__args__", ()) for s in _sections(part)]
