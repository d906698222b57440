"""What mkdocs cannot do by itself: pages and links outside `docs/`, and sources behind links.

SECURITY.md, README.md and the examples' pages stay where GitHub shows them. Here they become pages
of the site too, and every link is written anew for the place that its target has in the site.
"""

from __future__ import annotations

import ast
import posixpath
import re
import shutil
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("platform", "he", "actors", "infra", "pipelines")
PAGES = {
    "README.md": "project/readme.md",
    "SECURITY.md": "project/security.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
} | {
    page.relative_to(ROOT).as_posix(): f"examples/{page.parent.name}.md"
    for page in sorted(ROOT.glob("examples/*/README.md"))
}
"""Paths in the repository, and the pages of the site that they become."""

PLACES = {page: path for path, page in PAGES.items()}
LINK = re.compile(r"""(\]\(|\b(?:src|href)=")(?![a-z]+:|#|/)([^)"#\s]+)""")
FENCE = re.compile(r"^ *(```|~~~)")


@event_priority(100)  # mkdocstrings looks for its sources then, too
def on_config(config: MkDocsConfig) -> None:
    """Copy the package to where the reference is made from.

    A copy, since `platform/` has no `__init__.py` and is only found as a package with one.
    """
    package = ROOT / "build" / "docs-sources" / "blindsum"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "src" / "blindsum", package, ignore=shutil.ignore_patterns(*ROOMS))
    for room in ROOMS:
        shutil.copytree(ROOT / room, package / room, ignore=shutil.ignore_patterns("*.pyc"))
    (package / "platform" / "__init__.py").touch()


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that lie outside `docs/`."""
    for path, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write the page's links for the site.

    Raises:
        PluginError: a link leads to nothing in the repository, or to a file that is no page.
    """
    here = page.file.src_uri

    def rewritten(link: re.Match[str]) -> str:
        target = _in_the_site(link[2], here)
        return link[1] + posixpath.relpath(target, posixpath.dirname(here) or ".")

    lines, fenced = [], False
    for line in markdown.split("\n"):
        fenced ^= bool(FENCE.match(line))
        lines.append(line if fenced else LINK.sub(rewritten, line))
    return "\n".join(lines)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Name source files as they are called in the repository."""
    return html.replace("build/docs-sources/blindsum/", "")


def _in_the_site(target: str, page: str) -> str:
    """Return the page or file of the site that a link on `page` leads to."""
    place = PLACES.get(page, f"docs/{page}")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
    if (ROOT / path).is_dir() and (ROOT / path / "README.md").exists():
        path = f"{path}/README.md"
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    raise PluginError(
        f"{place} links to {target}, which is no page of the site: add it to PAGES in "
        "docs/hooks.py, or name the file without a link"
    )


class FieldDescriptions(griffe.Extension):
    """Show the description of a pydantic field as its docstring, and its default as its value."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Take `Field(default, description=...)` apart."""
        if attr.docstring or not str(attr.value).startswith("Field("):
            return
        arguments = {getattr(a, "name", ""): a for a in attr.value.arguments}
        if description := arguments.pop("description", None):
            text = ast.literal_eval(str(description.value))
            attr.docstring = griffe.Docstring(text, parent=attr)
        if set(arguments) <= {""}:
            attr.value = arguments.get("")
        else:
            attr.value.arguments = list(arguments.values())
