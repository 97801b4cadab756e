"""The query of a request: what is taken, and that each of the others is named."""

from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.problems.problems import Problem
from web.requests.query import MAX_PARAMETERS, check_query

_TAKES = ("limit", "before")


def _refusal_of(query: bytes, takes: tuple[str, ...] = _TAKES) -> Problem:
    with pytest.raises(Problem) as raised:
        check_query(query, takes)
    problem = raised.value
    assert (problem.status, problem.name) == (400, "invalid-query")
    return problem


@pytest.mark.parametrize(
    "query", [b"", b"&", b"&&", b"limit=5", b"limit", b"limit=&before=x", b"%6Cimit=5", b"before=a=b", b"limit=5?x=1"]
)
def test_what_the_operation_takes_is_taken(query: bytes) -> None:
    check_query(query, _TAKES)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        (b"status=FAILED", ["status"]),
        (b"status", ["status"]),
        (b"limit=5&status=FAILED&sort=x", ["status", "sort"]),
        (b"Limit=5", ["Limit"]),
        (b"limit%20=5", ["limit "]),
        (b"limit[]=5", ["limit[]"]),
        (b"=5", [""]),
        (b"limit;before=5", ["limit;before"]),
        (b"%ff=1", ["\ufffd"]),
        (b"x%00=1", ["x\0"]),
    ],
)
def test_every_unknown_parameter_is_named(query: bytes, named: list[str]) -> None:
    assert [it.parameter for it in _refusal_of(query).errors] == named


@pytest.mark.parametrize(
    "query",
    [b"limit=5&limit=5", b"limit=5&limit=6", b"limit&limit=6", b"limit=5&%6cimit=6", b"limit=1&before=&limit=2"],
)
def test_a_parameter_that_comes_twice_is_named(query: bytes) -> None:
    problem = _refusal_of(query)
    assert [it.parameter for it in problem.errors] == ["limit"]
    assert problem.detail == "The query parameter limit comes 2 times. Send it once."


def test_a_list_may_come_several_times_and_nothing_else_may() -> None:
    check_query(b"id=1&id=2&id=2&limit=5", ("id", "limit"), ("id",))
    with pytest.raises(Problem) as raised:
        check_query(b"id=1&id=2&limit=5&limit=6", ("id", "limit"), ("id",))
    assert [it.parameter for it in raised.value.errors] == ["limit"]


def test_all_that_is_wrong_with_a_query_is_said_at_once() -> None:
    problem = _refusal_of(b"status=x&limit=1&limit=2&status=y")
    assert problem.detail == "2 query parameters are not allowed: see errors."
    assert [it.detail for it in problem.errors] == [
        "This operation does not take the query parameter 'status'. It takes limit, before.",
        "The query parameter limit comes 2 times. Send it once.",
    ]


def test_an_operation_without_parameters_says_so() -> None:
    assert _refusal_of(b"x=1", ()).detail == "This operation does not take the query parameter 'x'. It takes none."


def test_an_endless_query_gets_a_short_answer() -> None:
    assert len(_refusal_of(b"x" * 60_000).body()) < 1_000
    assert len(_refusal_of(b"&".join(b"x%d" % it for it in range(10_000))).body()) < 1_000
    assert len(_refusal_of(b"&".join(b"x%d" % it for it in range(MAX_PARAMETERS))).errors) == MAX_PARAMETERS


@given(st.binary(max_size=100))
def test_no_query_raises_anything_but_a_problem(query: bytes) -> None:
    with suppress(Problem):
        check_query(query, _TAKES)


@given(st.text(min_size=1, max_size=50).filter(lambda name: name not in _TAKES))
def test_an_unknown_name_comes_back_as_it_was_meant(name: str) -> None:
    encoded = quote(name, safe="", errors="surrogatepass").encode()
    (error,) = _refusal_of(encoded + b"=1").errors
    if not any("\ud800" <= it <= "\udfff" for it in name):
        assert error.parameter == name
