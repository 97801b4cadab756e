"""README promises nothing that no test holds, and points at nothing that is not there."""

import json
import re
from pathlib import Path

from tests.documents import assert_they_are_there

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_every_link_of_the_readme_leads_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", README)
    assert len(targets) > 30
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_promise_names_tests_that_are_there() -> None:
    rows = re.findall(r"^\| P\d+ .*$", README, re.MULTILINE)
    assert [row.split()[1] for row in rows] == [f"P{number}" for number in range(1, 11)]
    for row in rows:
        assert_they_are_there(row, ROOT / "README.md")


def test_every_row_of_the_http_contract_names_tests_that_are_there() -> None:
    _, _, table = README.partition("| request | answer | held by |\n|---|---|---|\n")
    rows = table.partition("\n\n")[0].splitlines()
    assert len(rows) > 10
    for row in rows:
        assert_they_are_there(row, ROOT / "README.md")


def test_what_is_said_of_keys_is_what_was_measured() -> None:
    results = json.loads((ROOT / "benchmarks/results/key_locality.json").read_text())["results"]
    random, ordered = (next(it for it in results if it["keys"] == keys) for keys in ("UUIDv4", "UUIDv7"))
    said = re.findall(r"([0-9.]+) times as much", README)
    assert said == [f"{random[what] / ordered[what]:.1f}" for what in ("wal_bytes_per_row", "primary_key_mb")]
