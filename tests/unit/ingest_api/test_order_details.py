"""reference and metadata: what a request may hold, how it is refused, and what makes two requests the same."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.idempotency.records import fingerprint_of
from ingest_api.intake import bulk
from ingest_api.requests import OrderRequest, decode_request
from tests.support.data.texts import TEXTS
from web.problems.problems import Problem
from web.requests import json_body

ID = "01a20261-5c40-7b6e-9f0a-3d5c1e8a7b42"
SECRET = "sesame"
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def body_of(ensure_ascii: bool = False, /, **members: object) -> bytes:
    return json.dumps({"productId": ID, "quantity": 1, **members}, ensure_ascii=ensure_ascii).encode()


def refused(body: bytes) -> Problem:
    with pytest.raises(Problem) as problem:
        decode_request(body)
    return problem.value


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second, slow parse fails the test."""

    def again(*_: object, **__: object) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(json_body, "check_strictly", again)


# ── what is taken


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize("ensure_ascii", [True, False], ids=["ASCII", "UTF-8"])
@pytest.mark.parametrize("text", [it for it in TEXTS.values() if it], ids=[it for it in TEXTS if it != "empty"])
def test_any_text_is_taken_as_it_is_and_the_body_is_parsed_once(text: str, *, ensure_ascii: bool) -> None:
    pairs = {text: text, "empty": ""}
    request = decode_request(body_of(ensure_ascii, reference=text, metadata=pairs))
    assert (request.reference, request.metadata) == (text, pairs)


@given(
    ANY_TEXT.filter(lambda it: 1 <= len(it) <= 64),
    st.dictionaries(ANY_TEXT.filter(bool), ANY_TEXT, max_size=4),
    st.booleans(),
)
def test_every_character_but_nul_is_taken(reference: str, pairs: dict[str, str], ensure_ascii: bool) -> None:
    request = decode_request(body_of(ensure_ascii, reference=reference, metadata=pairs))
    assert (request.reference, request.metadata) == (reference, pairs or None)


@pytest.mark.usefixtures("once")
def test_no_pairs_and_null_are_the_same_as_none() -> None:
    plain = OrderRequest(ID, 1)
    none: list[dict[str, Any]] = [{}, {"metadata": {}}, {"metadata": None}, {"reference": None}]
    for members in (*none, {"reference": None, "metadata": {}}):
        assert decode_request(body_of(**members)) == plain


BOUNDS: dict[str, dict[str, Any]] = {
    "64 characters, however many bytes": {"reference": "\U0001f600" * 64},
    "16 pairs": {"metadata": {str(it): "" for it in range(16)}},
    "a key of 64 characters": {"metadata": {"é" * 64: "x"}},
    "2,048 bytes": {"metadata": {"é": "é" * 1023}},
}


@pytest.mark.parametrize("members", BOUNDS.values(), ids=BOUNDS)
def test_what_is_within_the_bounds_is_taken(members: dict[str, Any]) -> None:
    request = decode_request(body_of(**members))
    assert {name: getattr(request, name) for name in members} == members


# ── what is refused

WRONG: dict[str, tuple[str, object]] = {
    "an empty reference": ("reference", ""),
    "65 characters": ("reference", "x" * 65),
    "a NUL in the reference": ("reference", f"{SECRET}\0"),
    "a number": ("reference", 4711),
    "a list": ("reference", [SECRET]),
    "metadata that is no object": ("metadata", SECRET),
    "17 pairs": ("metadata", {f"{SECRET}{it}": "" for it in range(17)}),
    "an empty key": ("metadata", {"": SECRET}),
    "a key of 65 characters": ("metadata", {"x" * 65: SECRET}),
    "a value that is no string": ("metadata", {SECRET: 1}),
    "a value that is null": ("metadata", {SECRET: None}),
    "an object within": ("metadata", {SECRET: {"x": "y"}}),
    "a NUL in a key": ("metadata", {f"{SECRET}\0": ""}),
    "a NUL in a value": ("metadata", {"x": f"{SECRET}\0"}),
    "2,049 bytes": ("metadata", {"k": "é" * 1024}),
}


@pytest.mark.parametrize(("name", "value"), WRONG.values(), ids=WRONG)
def test_anything_else_is_422_at_its_pointer_and_not_repeated(name: str, value: object) -> None:
    problem = refused(body_of(**{name: value}))
    assert (problem.status, [it.pointer for it in problem.errors]) == (422, [f"#/{name}"])
    assert SECRET.encode() not in problem.body()
    assert problem.detail.startswith(f"{name} must be ")


def test_every_fault_is_named_at_once() -> None:
    problem = refused(body_of(quantity=0, reference="", metadata={"x": 1}, other=1))
    assert [it.pointer for it in problem.errors] == ["#/quantity", "#/reference", "#/metadata", "#/other"]


@pytest.mark.parametrize("text", [r"\ud800", r"x\udc00y", r"\udc00\ud800"])
@pytest.mark.parametrize("place", ['"reference":"%s"', '"metadata":{"k":"%s"}', '"metadata":{"%s":"v"}'])
def test_half_of_a_surrogate_pair_is_400(place: str, text: str) -> None:
    problem = refused(b'{"productId":"%s","quantity":1,%s}' % (ID.encode(), (place % text).encode()))
    assert (problem.status, problem.name) == (400, "malformed")
    assert "surrogate" in problem.detail


@pytest.mark.parametrize(
    "members",
    [
        '"metadata":{"KEY":"a","KEY":"b"}',
        '"metadata":{"KEY":"a:b","KEY":":"}',
        '"metadata":{"KEY":"a","\\u004bEY":"b"}',
        '"metadata":{"KEY":"a"},"metadata":{"KEY":"a"}',
        '"metadata":null,"metadata":{"KEY":"a"}',
        '"metadata":{"KEY":"a"},"metadata":{}',
        '"reference":"KEY","reference":"KEY"',
    ],
)
def test_what_comes_twice_is_400_and_no_name_of_the_clients_is_repeated(members: str) -> None:
    problem = refused(f'{{"productId":"{ID}","quantity":1,{members}}}'.encode())
    assert (problem.status, problem.detail.partition(" comes ")[2]) == (400, "twice in one object. Send it once.")
    assert b"KEY" not in problem.body()


def test_an_element_of_many_is_judged_as_one_alone() -> None:
    problem = bulk.read(body_of(reference="", metadata={SECRET: 1}))
    assert isinstance(problem, Problem)
    assert [it.pointer for it in problem.below("/7").errors] == ["#/7/reference", "#/7/metadata"]
    assert SECRET.encode() not in problem.below("/7").body()


# ── what makes two requests the same


def test_another_reference_and_other_metadata_are_another_order() -> None:
    members: list[dict[str, Any]] = [
        {},
        {"reference": "a"},
        {"reference": "b"},
        {"metadata": {"a": "b"}},
        {"metadata": {"b": "a"}},
        {"metadata": {"a": "b", "c": ""}},
        {"reference": "a", "metadata": {"a": "b"}},
    ]
    assert len({fingerprint_of(OrderRequest(ID, 1, **it)) for it in members}) == len(members)


def test_the_order_of_pairs_and_how_a_text_is_written_make_no_difference() -> None:
    one = decode_request(body_of(False, reference="é", metadata={"a": "1", "ß": "2"}))
    other = decode_request(body_of(True, metadata={"ß": "2", "a": "1"}, reference="é"))
    assert fingerprint_of(one) == fingerprint_of(other)


def test_an_order_without_them_has_the_fingerprint_of_the_release_before() -> None:
    """Ids derive from it, so the keys of the release before find their orders."""
    assert fingerprint_of(OrderRequest(ID, 1)).hex() == "f254f3d5aa68edb45d1a89e746f690da"


def test_a_refused_element_counts_by_what_it_orders() -> None:
    """A later release may take it, and then the ids of its neighbours must not change."""
    members = {"reference": "4711", "metadata": {"a": "b", "c": "d"}}
    too_many = body_of(**members).replace(b'"quantity": 1', b'"quantity": 2000000')
    (by_bytes,) = [bulk.read(too_many)]
    assert isinstance(by_bytes, Problem)
    taken: list[Any] = [OrderRequest(ID, 2_000_000, reference="4711", metadata={"c": "d", "a": "b"})]
    assert bulk.fingerprint_of_all([too_many], [by_bytes]) == bulk.fingerprint_of_all([too_many], taken)
