"""The pages that the types of problems resolve to."""

import html
import re

import pytest

from ingest_api.documents.operations import OPERATIONS
from web.documents.openapi import problems_of
from web.documents.problem_pages import _text, index_page, kind_page
from web.problems import kinds
from web.problems.kinds import KINDS, Kind

EVERY_KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def text_of(page: bytes) -> str:
    """Without its tags."""
    return html.unescape(re.sub("<[^>]+>", "", page.decode()))


@EVERY_KIND
def test_a_page_says_what_happened_what_to_do_and_how_it_looks(kind: Kind) -> None:
    text = text_of(kind_page(kind, OPERATIONS, ""))
    assert str(kind.status) in text
    for part in (kind.title, kind.meaning, kind.remedy):
        assert part.replace("`", "") in text
    assert f'"type": "{kind.type}"' in text


@EVERY_KIND
def test_a_page_names_the_operations_that_answer_it(kind: Kind) -> None:
    page = kind_page(kind, OPERATIONS, "").decode()
    for operation in OPERATIONS:
        if f'href="/docs#/{operation.tag}/{operation.id}"' in page:
            assert kind in problems_of(operation)


def test_a_kind_that_only_some_answer_lists_them() -> None:
    page = kind_page(kinds.OUT_OF_STOCK, OPERATIONS, "").decode()
    assert page.count('href="/docs#/') == 1
    assert "POST /api/v1/orders</code>" in page


def test_the_index_has_all_of_them() -> None:
    page = index_page("").decode()
    for kind in KINDS.values():
        assert f'href="{kind.type}"' in page


def test_texts_are_escaped_and_backquotes_are_code() -> None:
    assert _text("`a<b` & <c>") == "<code>a&lt;b</code> &amp; &lt;c&gt;"
