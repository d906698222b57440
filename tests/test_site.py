"""The documentation site builds offline, loads nothing from other hosts, and is complete."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("platform", "actors", "he", "pipelines", "infra")
SOURCES = sorted(
    [p for room in ROOMS for p in (ROOT / room).rglob("*.py")]
    + list((ROOT / "src" / "blindsum").glob("*.py"))
)
LOADS = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "srcset"}
pytestmark = pytest.mark.xdist_group("site")  # built once


def without_network() -> list[str]:
    """What to put before a command so that it has no network; nothing where that is not allowed."""
    for prefix in (["unshare", "-n"], ["unshare", "-rn"]):
        if (
            shutil.which("unshare")
            and not subprocess.run([*prefix, "true"], check=False).returncode
        ):
            return prefix
    return []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        [*without_network(), *build],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return folder


class Seen(HTMLParser):
    """A page's anchors, links, and what a browser loads for it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[key] for key in ("id", "name") if key in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in LOADS and LOADS[tag] in values:
            self.loads.append(values[LOADS[tag]])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Seen]:
    # The page for wrong addresses has addresses from a server's root.
    return {p: Seen(p) for p in site.rglob("*.html") if p.name != "404.html"}


def test_every_document_is_a_page(site: Path) -> None:
    for document in (ROOT / "docs").rglob("*.md"):
        page = site / document.relative_to(ROOT / "docs").with_suffix(".html")
        assert page.exists(), document
    for name in ("readme", "security", "contributing", "changelog"):
        assert (site / "project" / f"{name}.html").exists()
    assert not (site / "hooks.py").exists()


def test_no_page_loads_anything_from_elsewhere(site: Path, pages: dict[Path, Seen]) -> None:
    assert len(pages) > 25
    for page, seen in pages.items():
        assert seen.loads, page
        for address in seen.loads:
            parts = urlsplit(address)
            assert not parts.netloc and parts.scheme in ("", "data"), (page.name, address)
            assert not parts.path or (page.parent / parts.path).exists(), (page.name, address)
    for sheet in site.rglob("*.css"):
        addresses = re.findall(r"""(?:url\(|@import)\s*["']?([^"')]+)""", sheet.read_text())
        assert not [a for a in addresses if urlsplit(a).netloc], sheet.name


def test_no_link_within_the_site_is_broken(site: Path, pages: dict[Path, Seen]) -> None:
    links = 0
    for page, seen in pages.items():
        for address in seen.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / parts.path).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), (page.name, address)
            if parts.fragment and target.suffix == ".html":
                assert unquote(parts.fragment) in pages[target].anchors, (page.name, address)
            links += 1
    assert links > 2000


def test_the_reference_shows_what_is_public(site: Path, pages: dict[Path, Seen]) -> None:
    shown = {anchor for page, seen in pages.items() for anchor in seen.anchors}
    for name in (
        "platform.job.schema.Job.privacy",
        "platform.job.data_section.DataSection",
        "platform.privacy.plan.plan",
        "platform.privacy.shared_noise.noised_integers",
        "platform.privacy.statement",
        "platform.training.models.build_model",
        "he.cipher.CkksCipher.encrypt",
        "actors.federation.Federation.run_round",
    ):
        assert f"blindsum.{name}" in shown
    text = (site / "reference" / "job.html").read_text()
    assert "Stricter budget than privacy.epsilon." in text and "docs-sources" not in text


# Docstrings: the reference is made from them.

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public(body: list[ast.stmt]) -> Iterator[Definition]:
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node


def methods(node: ast.ClassDef) -> set[str]:
    return {member.name for member in public(node.body)}


BASES = {"Listener"}
"""Classes that are made to be inherited from, beside the protocols."""


def interfaces_of_the_project() -> list[ast.ClassDef]:
    return [
        node
        for path in SOURCES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
        and (node.name in BASES or "Protocol" in map(ast.unparse, node.bases))
    ]


def undocumented(tree: ast.Module, interfaces: list[ast.ClassDef]) -> Iterator[str]:
    """Yield public names without a docstring. The methods of an interface or a base class are
    explained once, there: a class that has them all, or inherits, need not. Nor need a setter."""
    if ast.get_docstring(tree) is None:
        yield "the module"
    for node in public(tree.body):
        if ast.get_docstring(node) is None:
            yield node.name
        if not isinstance(node, ast.ClassDef):
            continue
        explained = {
            name
            for interface in interfaces
            if interface is not node
            and (
                methods(interface) <= methods(node)
                or interface.name in map(ast.unparse, node.bases)
            )
            for name in methods(interface)
        }
        for member in public(node.body):
            setter = any(ast.unparse(d).endswith(".setter") for d in member.decorator_list)
            if ast.get_docstring(member) is None and not setter and member.name not in explained:
                yield f"{node.name}.{member.name}"


def test_every_public_name_has_a_docstring() -> None:
    interfaces = interfaces_of_the_project()
    assert {"Channel", "Cluster", "Listener", "Stage"} <= {node.name for node in interfaces}
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in SOURCES
        for name in undocumented(ast.parse(path.read_text()), interfaces)
    ]
    assert not missing, "\n".join(missing)


def test_a_missing_docstring_is_found() -> None:
    text = '"""M."""\nclass A:\n    """A."""\n    def shown(self): ...\n    def _own(self): ...\n'
    assert list(undocumented(ast.parse(text), [])) == ["A.shown"]
    interface = ast.parse('class I:\n    """I."""\n    def shown(self):\n        """S."""\n').body[
        0
    ]
    assert isinstance(interface, ast.ClassDef)
    assert not list(undocumented(ast.parse(text), [interface]))
