"""The tests of each promise, found by their names: `test_p1_…` holds P1."""

import re
from functools import cache
from pathlib import PurePosixPath

from stack.home.directory import ROOT

_MARKER = re.compile(r"^<!-- tests of (P\d+) -->$", re.MULTILINE)
_TEST = re.compile(r"^\s*(?:async )?def test_((?:p\d+_)+)(\w+)\(", re.MULTILINE)


def filled(text: str, up: str) -> str:
    """The page with a folded list of tests in place of each marker. `up` leads from the page to the root: `..`."""
    return _MARKER.sub(lambda it: _list(it[1], up), text)


def _list(promise: str, up: str) -> str:
    found = tests().get(promise, [])
    lines = [f"    - [{name}]({up}/{path})" for name, path in found]
    return "\n".join([f'??? abstract "All {len(found)} tests named after {promise}"', "", *lines])


@cache
def tests() -> dict[str, list[tuple[str, PurePosixPath]]]:
    """`P1` → name, as prose, and file of each test that is named after it; by file, then by line."""
    found: dict[str, list[tuple[str, PurePosixPath]]] = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        path = PurePosixPath(file.relative_to(ROOT).as_posix())
        for promises, name in _TEST.findall(file.read_text()):
            for promise in promises.strip("_").split("_"):
                found.setdefault(promise.upper(), []).append((f"{promises}{name}".replace("_", " "), path))
    return found
