"""What documents say that a test shows, and whether that test is there."""

import re
from pathlib import Path


def named_in(row: str) -> list[tuple[str, str]]:
    """The names of tests in a row of a table, and their files as the document has them."""
    return re.findall(r"\[([^\]]+)\]\(((?:\.\./)*tests/[^)]+)\)", row)


def assert_they_are_there(row: str, document: Path) -> None:
    """Each test that a row names, and at least one."""
    held_by = named_in(row)
    assert held_by, f"nothing holds {row}"
    for name, path in held_by:
        text = (document.parent / path).read_text()
        assert f"def test_{name.replace(' ', '_')}(" in text, f"{path} has no {name!r}"
