"""Every link of every document leads to a file that is there, and to a heading in it."""

import re
from functools import cache
from pathlib import Path

import pytest

from stack.home.directory import ROOT
from tests.support.data.documents import named_in

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def documents() -> list[Path]:
    return sorted(
        [*ROOT.glob("*.md"), *(it for room in ("docs", "deploy", "web") for it in (ROOT / room).rglob("*.md"))]
    )


@cache
def anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes from the headings."""
    words = (re.sub(r"[^\w\- ]", "", it.lower()) for it in _HEADING.findall(document.read_text()))
    return {it.replace(" ", "-") for it in words}


def is_good(document: Path, link: str) -> bool:
    target, _, anchor = link.partition("#")
    if target.startswith(("https:", "http:")):
        return True
    path = document.parent / target if target else document
    return path.exists() and (not anchor or anchor in anchors(path))


@pytest.mark.parametrize("document", documents(), ids=lambda it: it.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(document: Path) -> None:
    links = _LINK.findall(document.read_text())
    assert [link for link in links if not is_good(document, link)] == []


def test_a_link_to_nothing_is_found() -> None:
    assert is_good(ROOT / "README.md", "docs/concepts.md#ids")
    assert not is_good(ROOT / "README.md", "docs/concepts.md#nonsense")
    assert not is_good(ROOT / "README.md", "docs/nonsense.md")


def test_every_page_is_in_the_overview() -> None:
    """docs/README.md leads to every page, so that a reader of the repository finds it."""
    pages = {it.relative_to(ROOT / "docs").as_posix() for it in (ROOT / "docs").rglob("*.md")}
    assert set(re.findall(r"\]\(([\w/-]+\.md)\)", (ROOT / "docs/README.md").read_text())) == pages - {"README.md"}


def documents_that_name_tests() -> list[Path]:
    return [it for it in documents() if "tests/" in it.read_text() and it.name != "CHANGELOG.md"]


@pytest.mark.parametrize("document", documents_that_name_tests(), ids=lambda it: it.relative_to(ROOT).as_posix())
def test_every_test_that_is_named_is_there(document: Path) -> None:
    for name, path in named_in(document.read_text()):
        if is_a_sentence(name):
            assert f"def test_{name.replace(' ', '_')}(" in (document.parent / path).read_text(), f"{path}: {name!r}"


def is_a_sentence(name: str) -> bool:
    return " " in name
