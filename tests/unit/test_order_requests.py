"""What a body becomes before any I/O: a request in bounds, or a problem that names the field."""

import json
import string
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingest_api.catalogue import Product
from ingest_api.requests import MAX_QUANTITY, canonical_product_id, check_sellable, decode_request
from tests.problems import pointer_of
from web.problems import Problem

PRODUCT_ID = "01a20267-97ad-8199-a6a6-540000cf26ec"


def body_of(quantity: str, product_id: str = f'"{PRODUCT_ID}"') -> bytes:
    return f'{{"productId":{product_id},"quantity":{quantity}}}'.encode()


def problem_of(body: bytes) -> Problem:
    with pytest.raises(Problem) as raised:
        decode_request(body)
    return raised.value


# ── bodies


@pytest.mark.parametrize("quantity", [1, 2, MAX_QUANTITY])
def test_a_quantity_in_bounds_is_taken(quantity: int) -> None:
    request = decode_request(body_of(str(quantity)))
    assert (request.product_id, request.quantity) == (PRODUCT_ID, quantity)


@pytest.mark.parametrize(
    "quantity",
    [
        pytest.param(text, id=text[:30])
        for text in (
            "0", "-1", "-0", "1000001", "true", "false", "null", '"1"', '""', "1.5", "1.0", "1e0", "1E400", "[1]", "{}",
            "9223372036854775808", "18446744073709551616", "-9223372036854775809", "9" * 300, "9" * 4300, "9" * 60_000,
        )
    ],
)  # fmt: skip
def test_any_other_quantity_is_422_at_its_pointer(quantity: str) -> None:
    problem = problem_of(body_of(quantity))
    assert (problem.status, problem.name, pointer_of(problem)) == (422, "invalid-value", "/quantity")


@pytest.mark.parametrize("product_id", ["1", "null", "true", "1.5", "[]", '{"id":"x"}'])
def test_a_product_id_that_is_no_string_is_422_at_its_pointer(product_id: str) -> None:
    problem = problem_of(body_of("1", product_id))
    assert (problem.status, pointer_of(problem)) == (422, "/productId")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"{}", "/productId"),
        (b'{"quantity":1}', "/productId"),
        (b'{"product_id":"x","quantity":1}', "/productId"),
        (b'{"productId":"x"}', "/quantity"),
        (b"[]", ""),
        (b"null", ""),
        (b'"x"', ""),
        (b"1", ""),
    ],
)
def test_a_missing_field_is_pointed_to_and_so_is_the_whole_body(body: bytes, pointer: str) -> None:
    problem = problem_of(body)
    assert (problem.status, pointer_of(problem)) == (422, pointer)
    assert json.loads(problem.body())["errors"] == [{"pointer": f"#{pointer}", "detail": problem.detail}]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b" ", id="blank"),
        pytest.param(b"{", id="cut"),
        pytest.param(body_of("1")[:-1], id="cut at the end"),
        pytest.param(body_of("1") + b"x", id="trailing"),
        pytest.param(body_of("1") + body_of("1"), id="two"),
        pytest.param(b"\xef\xbb\xbf" + body_of("1"), id="byte order mark"),
        pytest.param(body_of("1").decode().encode("utf-16"), id="utf-16"),
        pytest.param(b'{"productId":"\xff","quantity":1}', id="invalid utf-8"),
        pytest.param(b'{"productId":"\\ud800","quantity":1}', id="lone surrogate"),
        pytest.param(body_of("NaN"), id="NaN"),
        pytest.param(body_of("01"), id="leading zero"),
        pytest.param(b"\0" + body_of("1"), id="NUL"),
        pytest.param(b'{"x":' + b"[" * 60_000, id="deep"),
        pytest.param(b'{"x":' + b"[" * 30_000 + b"]" * 30_000 + b',"quantity":1}', id="deep and balanced"),
        pytest.param(b'{"x":' * 10_000, id="deep objects"),
    ],
)
def test_what_is_not_json_is_400(body: bytes) -> None:
    problem = problem_of(body)
    assert (problem.status, problem.name, pointer_of(problem)) == (400, "malformed", None)


def test_unknown_fields_are_ignored_and_the_last_of_two_equal_ones_counts() -> None:
    request = decode_request(f'{{"quantity":1,"note":[{{}}],"productId":"{PRODUCT_ID}","quantity":2}}'.encode())
    assert request.quantity == 2


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def _check_that_only_a_problem_comes_out(body: bytes) -> None:
    try:
        request = decode_request(body)
        canonical_product_id(request.product_id)
    except Problem as problem:
        status, _ = problem.status, json.loads(problem.body())
    else:
        status = 202
        assert 1 <= request.quantity <= MAX_QUANTITY
    assert status in (202, 400, 422)


@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_but_a_problem(body: bytes) -> None:
    _check_that_only_a_problem_comes_out(body)


@given(st.fixed_dictionaries({}, optional={"productId": _json_values, "quantity": _json_values, "x": _json_values}))
@example({"productId": PRODUCT_ID, "quantity": 10**400})
def test_random_json_never_raises_anything_but_a_problem(content: dict[str, object]) -> None:
    _check_that_only_a_problem_comes_out(json.dumps(content).encode())


@given(st.data())
def test_a_damaged_order_never_raises_anything_but_a_problem(data: st.DataObject) -> None:
    body = bytearray(body_of("17"))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    _check_that_only_a_problem_comes_out(bytes(body))


# ── product ids


@pytest.mark.parametrize("text", [PRODUCT_ID, PRODUCT_ID.upper(), PRODUCT_ID[:14].upper() + PRODUCT_ID[14:]])
def test_the_canonical_id_is_lower_case(text: str) -> None:
    assert canonical_product_id(text) == PRODUCT_ID


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        PRODUCT_ID.replace("-", ""),
        f"{{{PRODUCT_ID}}}",
        f"urn:uuid:{PRODUCT_ID}",
        f" {PRODUCT_ID}",
        f"{PRODUCT_ID}\n",
        f"{PRODUCT_ID}0",
        PRODUCT_ID[:-1],
        PRODUCT_ID[:-1] + "g",
        PRODUCT_ID[:-1] + "\0",
        PRODUCT_ID[:-1] + "\u0661",
        PRODUCT_ID[:-1] + "\uff11",
        "_" * 36,
    ],
)
def test_what_is_no_uuid_in_its_usual_form_is_422(text: str) -> None:
    with pytest.raises(Problem) as raised:
        canonical_product_id(text)
    assert (raised.value.status, pointer_of(raised.value)) == (422, "/productId")


@given(st.text(alphabet=string.hexdigits + "-_ {}+", min_size=36, max_size=36))
def test_what_passes_for_an_id_has_the_usual_form(text: str) -> None:
    try:
        canonical = canonical_product_id(text)
    except Problem:
        return
    assert [len(part) for part in canonical.split("-")] == [8, 4, 4, 4, 12]
    assert set(canonical) <= set("0123456789abcdef-")


# ── what the catalogue says


@pytest.mark.parametrize(
    ("price", "sold_out", "status", "name"),
    [
        (None, False, 422, "unknown-product"),
        (None, True, 422, "unknown-product"),
        (Decimal("9.99"), True, 409, "out-of-stock"),
    ],
)
def test_a_product_that_cannot_be_sold_is_refused(
    price: Decimal | None, sold_out: bool, status: int, name: str
) -> None:
    with pytest.raises(Problem) as raised:
        check_sellable(PRODUCT_ID, Product(1, price, sold_out, 0.0, 0.0))
    assert (raised.value.status, raised.value.name) == (status, name)
    assert PRODUCT_ID in raised.value.detail


def test_a_free_product_can_be_sold() -> None:
    check_sellable(PRODUCT_ID, Product(1, Decimal(0), False, 0.0, 0.0))
