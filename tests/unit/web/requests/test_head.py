"""A head: each header's values, as often as the client sent it, and nothing refused before its time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.access.clients import ANYONE
from web.requests.head import Head, parse_head

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
MANY = {
    b"host": "hosts",
    b"transfer-encoding": "transfer_encodings",
    b"content-encoding": "content_encodings",
    b"idempotency-key": "idempotency_keys",
    b"authorization": "authorizations",
    b"if-match": "if_match",
    b"if-none-match": "if_none_match",
}


def test_a_head_without_headers_says_nothing() -> None:
    assert parse_head([]) == Head((), (), b"", 0, (), (), (), None, (), (), None, ANYONE)


@pytest.mark.parametrize("name", MANY, ids=bytes.decode)
def test_every_value_of_a_header_is_kept_in_its_order(name: bytes) -> None:
    head = parse_head([(name, b"one"), (b"x-other", b"x"), (name, b""), (name, b"\xff")])
    values = [b"one", b"", b"\xff"]
    assert getattr(head, MANY[name]) == tuple(it.decode("latin-1") if name.startswith(b"if-") else it for it in values)


def test_the_first_content_type_that_is_not_empty_counts() -> None:
    assert parse_head([(b"content-type", it) for it in (b"", b"a/b", b"c/d")]).content_type == b"a/b"


def test_the_declared_length_is_a_number() -> None:
    assert parse_head([(b"content-length", b"66")]).content_length == 66


def test_a_trace_context_is_taken_as_it_is() -> None:
    assert parse_head([(b"traceparent", TRACE), (b"traceparent", b"x")]).traceparent == TRACE.decode()


@pytest.mark.parametrize(
    "malformed",
    [
        b"",
        b"x",
        b"ff" + TRACE[2:],
        b"00-" + b"0" * 32 + TRACE[35:],
        TRACE[:36] + b"0" * 16 + b"-01",
        TRACE.upper(),
        TRACE + b"-x",
        b"\xff",
    ],
)
def test_a_malformed_trace_context_counts_as_none(malformed: bytes) -> None:
    assert parse_head([(b"traceparent", malformed), (b"traceparent", TRACE)]).traceparent is None


@given(st.lists(st.tuples(st.sampled_from([*MANY, b"content-type", b"traceparent", b"x"]), st.binary())))
def test_no_value_is_refused_before_the_part_that_needs_it_sees_it(headers: list[tuple[bytes, bytes]]) -> None:
    parse_head(headers)
