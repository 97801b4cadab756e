"""docs/guarantees.md promises nothing that no test holds, and docs/contract.md leaves out no operation."""

import re

import pytest

from docs.generate import promises
from ingest_api.documents.operations import OPERATIONS as ORDERS
from product_api.operations import OPERATIONS as PRODUCTS
from stack.home.directory import ROOT
from tests.support.data.documents import assert_they_are_there

PROMISES = [f"P{number}" for number in range(1, 13)]
GUARANTEES, CONTRACT = ROOT / "docs" / "guarantees.md", ROOT / "docs" / "contract.md"


def sections(text: str, mark: str) -> list[str]:
    return re.split(rf"^{mark} ", text, flags=re.MULTILINE)[1:]


def test_every_promise_names_tests_that_are_there() -> None:
    found = sections(GUARANTEES.read_text(), "###")
    assert [it.split()[0] for it in found] == PROMISES
    for section in found:
        assert_they_are_there(section, GUARANTEES)


@pytest.mark.parametrize("promise", PROMISES)
def test_the_site_lists_every_test_that_is_named_after_a_promise(promise: str) -> None:
    assert f"<!-- tests of {promise} -->" in GUARANTEES.read_text()
    assert len(promises.tests()[promise]) >= 5


def test_every_part_of_the_http_contract_names_tests_that_are_there() -> None:
    for section in sections(CONTRACT.read_text(), "##"):
        assert_they_are_there(section, CONTRACT)


def test_the_http_contract_leaves_out_no_operation() -> None:
    paths = {re.sub(r"\{.*?\}", "{", it.path) for it in (*ORDERS, *PRODUCTS)}
    text = re.sub(r"\{.*?\}", "{", CONTRACT.read_text())
    assert [it for it in paths if it not in text and not it.startswith("/products/")] == []
