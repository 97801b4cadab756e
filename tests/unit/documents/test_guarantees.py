"""docs/guarantees.md promises nothing that no test holds, and leaves out no operation."""

import re

from stack.home.directory import ROOT
from tests.support.data.documents import assert_they_are_there

DOCUMENT = ROOT / "docs" / "guarantees.md"
TEXT = DOCUMENT.read_text()


def test_every_promise_names_tests_that_are_there() -> None:
    rows = re.findall(r"^\| P\d+ .*$", TEXT, re.MULTILINE)
    assert [row.split()[1] for row in rows] == [f"P{number}" for number in range(1, 11)]
    for row in rows:
        assert_they_are_there(row, DOCUMENT)


def test_every_row_of_the_http_contract_names_tests_that_are_there() -> None:
    _, _, table = TEXT.partition("| request | held by |\n|---|---|\n")
    rows = table.partition("\n\n")[0].splitlines()
    assert len(rows) > 10
    for row in rows:
        assert_they_are_there(row, DOCUMENT)
