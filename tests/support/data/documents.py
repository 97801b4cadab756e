"""Finds the tests that documents name as proof, and checks that they exist."""

import re
from pathlib import Path


def named_in(row: str) -> list[tuple[str, str]]:
    """The tests that a table row names: (name, file as the document writes it)."""
    return re.findall(r"\[([^\]]+)\]\(((?:\.\./)*tests/[^)]+)\)", row)


def assert_they_are_there(row: str, document: Path) -> None:
    """Assert that the row names at least one test, and that each exists."""
    held_by = named_in(row)
    assert held_by, f"nothing holds {row}"
    for name, path in held_by:
        text = (document.parent / path).read_text()
        assert f"def test_{name.replace(' ', '_')}(" in text, f"{path} has no {name!r}"
