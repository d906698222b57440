"""The documents say what the code does."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from blindsum.pipelines.consortium.settings import CoordinatorFile
from blindsum.platform.data.preparation.recipe import Recipe
from blindsum.platform.job.owner import (
    CoordinatorSection,
    DatasetSection,
    OwnerFile,
    PolicySection,
)
from blindsum.platform.job.schema import Job
from blindsum.platform.job.section import Section
from blindsum.platform.privacy.releases import RELEASES

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")]
)


def sections(kind: type[BaseModel] = Section) -> list[type[BaseModel]]:
    return [kind, *(s for child in kind.__subclasses__() for s in sections(child))]


JOB = re.compile(rf"{re.escape(Job.__module__.rpartition('.')[0])}\.(schema|\w+_section)")
JOB_SECTIONS = [s for s in sections() if JOB.fullmatch(s.__module__)]


def test_the_sections_of_the_job_file_are_found() -> None:
    """After a move of modules the test below would check nothing."""
    assert {"Job", "DataSection", "TrainingSection"} <= {s.__name__ for s in JOB_SECTIONS}
    assert len(JOB_SECTIONS) >= 25


@pytest.mark.parametrize("section", JOB_SECTIONS)
def test_every_setting_is_explained(section: type[BaseModel]) -> None:
    text = (ROOT / "docs" / "job-file.md").read_text()
    named = set(re.findall(r"[\w]+", " ".join(re.findall(r"`([^`]+)`", text))))
    assert set(section.model_fields) <= named


def test_every_setting_of_a_preparation_is_explained() -> None:
    text = (ROOT / "docs" / "preparation.md").read_text()
    named = set(re.findall(r"[\w]+", " ".join(re.findall(r"`([^`]+)`", text))))
    explained = [s for s in sections() if s.__module__ == Recipe.__module__]
    assert len(explained) >= 10
    for section in explained:
        # Descriptors' column of SMILES is not for the recipe to choose.
        assert set(section.model_fields) - {"smiles"} <= named, section


@pytest.mark.parametrize(
    "section", [CoordinatorFile, OwnerFile, DatasetSection, CoordinatorSection, PolicySection]
)
def test_every_setting_between_clusters_is_explained(section: type[BaseModel]) -> None:
    text = (ROOT / "docs" / "consortium.md").read_text()
    named = set(re.findall(r"[\w]+", " ".join(re.findall(r"`([^`]+)`", text))))
    assert set(section.model_fields) - {"path"} <= named


def test_every_release_stands_in_the_security_page() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    for figure, guarantee in RELEASES.items():
        assert f"| {figure} | {guarantee} |" in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        page = document.parent / path if path else document
        assert page.exists(), target
        if anchor and page.suffix == ".md":
            assert anchor in anchors(page), target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made of the headings' text."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_source_files_that_are_named_exist(document: Path) -> None:
    rooms = "platform|actors|he|pipelines|infra|tests|benchmarks|examples|docs"
    named = re.findall(rf"`((?:{rooms})/[\w/.*-]+)`", document.read_text())
    missing = [path for path in named if not list(ROOT.glob(path.rstrip("/")))]
    assert not missing


def test_tests_named_in_the_security_page_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "SECURITY.md").read_text())
    assert named and all((ROOT / path).exists() for path in named)


def console_command() -> Any:
    from typer.main import get_command

    from blindsum.pipelines.cli.app import app

    return get_command(app)


def test_commands_and_options_of_a_consortium_exist() -> None:
    text = (ROOT / "docs" / "consortium.md").read_text()
    lines = re.findall(r"^ +(?:ExecStart=\S*)?(blindsum .+?)(?: #|$)", text, re.MULTILINE)
    assert len(lines) > 15
    for words in map(shlex.split, lines):
        command = console_command()
        for word in words[1:]:
            if word in getattr(command, "commands", {}):
                command = command.commands[word]
        assert not hasattr(command, "commands"), words
        options = {option for one in command.params for option in one.opts}
        assert {word for word in words if word.startswith("--")} <= options, words


def test_commands_in_the_readme_exist() -> None:
    command = console_command()
    text = (ROOT / "README.md").read_text()
    used = {
        shlex.split(line)[1]
        for line in re.findall(r"^ +(blindsum .*?)(?: #|$)", text, re.MULTILINE)
    }
    assert {"init", "check", "run"} <= used <= set(command.commands)
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make (\w+)`?", text)) <= targets
    assert {"setup", "demo", "test", "lint", "bench"} <= targets


def test_no_document_names_this_machine_or_an_index() -> None:
    for document in DOCUMENTS:
        text = document.read_text()
        assert str(ROOT) not in text and str(Path.home()) + "/" not in text
        assert "index-url" not in text


def test_modules_named_anywhere_exist() -> None:
    """In docstrings, documents, manifests: a name that a move left behind leads nowhere."""
    rooms = "platform|actors|he|infra|pipelines"
    files = [p for room in rooms.split("|") for p in (ROOT / room).rglob("*") if p.is_file()]
    texts = [*DOCUMENTS, *(p for p in files if p.suffix in (".py", ".yaml", ".toml"))]
    named = {
        (path.name, name)
        for path in texts
        for name in re.findall(rf"\bblindsum\.((?:{rooms})(?:\.\w+)+)", path.read_text())
    }
    assert len(named) > 300
    assert not [one for one in named if not leads_somewhere(one[1])]


def leads_somewhere(name: str) -> bool:
    """Whether a dotted name below `blindsum.` is a room, a module, or something in a module."""
    at, parts = ROOT, name.split(".")
    while parts and (at / parts[0]).is_dir():
        at = at / parts.pop(0)
    return not parts or (at / f"{parts[0]}.py").exists()
