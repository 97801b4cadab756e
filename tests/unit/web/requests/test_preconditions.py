"""What holds for strong and for weak ETags. Versions of products: test_product_requests.py."""

import re

import pytest

from web.problems import problems
from web.problems.problems import Problem
from web.requests import http_fields
from web.requests.preconditions import client_has, if_match_holds


@pytest.mark.parametrize("etag", ['"a"', 'W/"a"'])
@pytest.mark.parametrize("value", ['"a"', 'W/"a"', '"b", W/"a"', "*"])
def test_to_have_it_a_weak_tag_will_do_on_either_side(etag: str, value: str) -> None:
    assert client_has([value], etag)


def test_to_change_it_both_are_strong() -> None:
    assert if_match_holds(['W/"a", "a"'], '"a"')
    assert not if_match_holds(['W/"a", "a"'], 'W/"a"')


def _answer(values: list[str]) -> tuple[int, str] | bool:
    """To a change of what has the ETag "2": the status and kind of the refusal, or whether it holds."""
    try:
        return if_match_holds(values, '"2"')
    except Problem as problem:
        return problem.status, problem.name


@pytest.mark.parametrize(
    "values", [['W/"2"'], ['W/"1"'], ['W/"2", W/"3"'], ['W/"2"', 'W/"3"'], ['W/"2", "1"'], ['"1"', 'W/"2"'], ['W/""']]
)
def test_a_weak_tag_is_what_is_wrong_and_not_a_change_of_the_product(values: list[str]) -> None:
    """Told that it has changed, its client would read the same weak tag again, and try for ever."""
    assert _answer(values) == (412, "weak-etag")


@pytest.mark.parametrize("values", [['"1"'], ['W/"1", "3"'], ['"3"', 'W/"1"']])
def test_where_a_strong_tag_is_of_another_version_and_no_weak_one_of_this_it_has_changed(values: list[str]) -> None:
    assert _answer(values) is False


@pytest.mark.parametrize("values", [['"2"'], ['W/"2", "2"'], ['W/"1"', '"2"'], ['"1", W/"2", "2"']])
def test_a_weak_tag_beside_the_right_strong_one_does_no_harm(values: list[str]) -> None:
    assert _answer(values) is True


def test_the_answer_to_a_weak_tag_says_what_to_send() -> None:
    detail = problems.weak_etag().detail
    assert "cannot be used for a change" in detail
    assert "has changed" not in detail


@pytest.mark.parametrize("value", ['"a"', 'W/"a"', '"a", "b"', '"\xe4"', "*"])
def test_what_the_documents_allow_is_understood(value: str) -> None:
    (meta,) = http_fields.IF_MATCH.type.__metadata__
    assert re.search(meta.pattern, value)
    assert _answer([value]) in (True, False, (412, "weak-etag"))


@pytest.mark.parametrize("value", ["a", '"a" "b"', 'w/"a"', '"a"b"', '*, "a"'])
def test_what_they_do_not_is_malformed(value: str) -> None:
    (meta,) = http_fields.IF_MATCH.type.__metadata__
    assert not re.search(meta.pattern, value)
    with pytest.raises(Problem) as refused:
        if_match_holds([value], '"a"')
    assert refused.value.status == 400
