"""What a load's answers say: ids, refusals, problems, percentiles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proof.bodies import id_of, problem_detail, problem_name
from proof.load_result import NO_ANSWER, is_accepted, is_refused, percentile


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"product_id":"b","id":"a"}', b"a"),
        (b'{ "product_id": "b", "id" : "a" }', b"a"),
        (b'{"product_id":"b"}', b""),
        (b'{"id":5}', b""),
        (b"[]", b""),
        (b"", b""),
    ],
)
def test_id_of(body: bytes, found: bytes) -> None:
    assert id_of(body) == found


@pytest.mark.parametrize("status", [NO_ANSWER, 200, 302, 500, 502, 503, 504])
def test_unknown_is_neither(status: int) -> None:
    assert not is_accepted(status)
    assert not is_refused(status)


@pytest.mark.parametrize(
    ("status", "problem", "refused"),
    [
        (503, b"overloaded", True),
        (503, b"broker-unavailable", True),
        (503, b"store-unavailable", True),
        (503, b"outcome-unknown", False),
        (503, b"", False),
        (500, b"overloaded", False),
        (409, b"", True),
        (422, b"unknown-product", True),
    ],
)
def test_a_503_is_a_refusal_if_it_says_so(status: int, problem: bytes, refused: bool) -> None:
    assert is_refused(status, problem) is refused


@pytest.mark.parametrize(
    ("body", "name", "detail"),
    [
        (b'{"type":"/docs/problems/overloaded","detail":"Slowly."}', b"overloaded", "Slowly."),
        (b'{"type":"about:blank"}', b"about:blank", '{"type":"about:blank"}'),
        (b'{"type":5}', b"", '{"type":5}'),
        (b"full \xff", b"", "full \ufffd"),
        (b"", b"", ""),
    ],
)
def test_a_problem_is_read(body: bytes, name: bytes, detail: str) -> None:
    assert (problem_name(body), problem_detail(body)) == (name, detail)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_percentile_is_the_smallest_that_enough_do_not_exceed(values: list[float], fraction: float) -> None:
    values.sort()
    found = percentile(values, fraction)
    assert found is not None
    assert sum(value <= found for value in values) >= fraction * len(values)
    assert sum(value < found for value in values) < fraction * len(values)


def test_percentile_of_nothing() -> None:
    assert percentile([], 0.5) is None
