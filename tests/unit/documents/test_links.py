"""Every link of every document leads to a file that is there, and to a heading in it."""

import re
from functools import cache
from pathlib import Path

import pytest

from stack.home.directory import ROOT

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
    assert is_good(ROOT / "README.md", "docs/concepts.md#glossary")
    assert not is_good(ROOT / "README.md", "docs/concepts.md#nonsense")
    assert not is_good(ROOT / "README.md", "docs/nonsense.md")


def test_the_site_and_the_overview_have_every_page() -> None:
    pages = {it.name for it in (ROOT / "docs").glob("*.md")}
    assert set(re.findall(r"^ +- .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)) == pages
    assert set(re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs/README.md").read_text())) == pages - {"README.md"}
