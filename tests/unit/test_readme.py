"""README promises nothing that no test holds, and points at nothing that is not there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_every_link_of_the_readme_leads_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", README)
    assert len(targets) > 30
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_promise_names_tests_that_are_there() -> None:
    rows = re.findall(r"^\| (P\d+) .*$", README, re.MULTILINE)
    assert rows == [f"P{number}" for number in range(1, 11)]
    for line in README.splitlines():
        if not re.match(r"\| P\d+ ", line):
            continue
        held_by = re.findall(r"\[([^\]]+)\]\((tests/[^)]+)\)", line)
        assert held_by
        for name, path in held_by:
            assert f"def test_{name.replace(' ', '_')}(" in (ROOT / path).read_text(), f"{path} has no {name!r}"
