"""What a body becomes before any I/O: a request in bounds, or a problem that names the field."""

import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingest_api.intake import bulk
from ingest_api.requests import MAX_QUANTITY, OrderRequest, be_canonical, decode_request, requested_lines
from tests.support.data.problems import pointer_of
from web.problems.problems import Problem

# As a problem lists them: "productId and quantity", and what else a client may say.
*_FIRST, _LAST = (field.encode_name for field in msgspec.structs.fields(OrderRequest))


_MEMBERS = f"{', '.join(_FIRST)} and {_LAST}"
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
    assert decode_request(body_of(str(quantity))) == OrderRequest(PRODUCT_ID, quantity)


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
        (b'{"quantity":1}', "/productId"),
        (f'{{"productId":"{PRODUCT_ID}"}}'.encode(), "/quantity"),
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
    ("body", "errors"),
    [
        (b"{}", {"#/productId": "productId is missing: it must be a UUID,", "#/quantity": "quantity is missing: it "}),
        (
            b'{"productId":"x","quantity":"y"}',
            {"#/productId": "productId must be a UUID,", "#/quantity": "quantity must be a whole number from 1 to "},
        ),
        (
            b'{"productId":null,"quantity":1000001}',
            {"#/productId": "productId must be a UUID,", "#/quantity": "quantity must be a whole number from 1 to "},
        ),
    ],
)
def test_all_that_is_wrong_is_said_at_once(body: bytes, errors: dict[str, str]) -> None:
    problem = problem_of(body)
    assert (problem.status, problem.name, problem.detail) == (
        422,
        "invalid-value",
        "2 values are not allowed: see errors.",
    )
    assert [error.pointer for error in problem.errors] == list(errors)
    assert all(
        error.detail.startswith(expected) for error, expected in zip(problem.errors, errors.values(), strict=True)
    )


def test_what_was_sent_is_repeated_if_it_is_short() -> None:
    assert problem_of(body_of("1.0")).detail == (
        "quantity must be a whole number from 1 to 1000000, without a decimal point or an exponent, not 1.0."
    )
    assert "99999" not in problem_of(body_of("9" * 4300)).detail


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
        pytest.param(b'{"x":"\xff",' + body_of("1")[1:], id="invalid utf-8 in an unknown member"),
        pytest.param(b'{"\xff":1,' + body_of("1")[1:], id="invalid utf-8 in an unknown name"),
        pytest.param(b'{"x":["\\udc00"],' + body_of("1")[1:], id="lone surrogate in an unknown member"),
        pytest.param(b'{"\\ud83d":1,' + body_of("1")[1:], id="lone surrogate in an unknown name"),
        pytest.param(b'{"x":-Infinity,' + body_of("1")[1:], id="infinity in an unknown member"),
        pytest.param(b'{"x":"\0",' + body_of("1")[1:], id="NUL in a string"),
        pytest.param(b'{"quantity":"x",', id="of a wrong type, and cut"),
    ],
)
def test_what_is_not_json_is_400(body: bytes) -> None:
    problem = problem_of(body)
    assert (problem.status, problem.name, pointer_of(problem)) == (400, "malformed", None)


@pytest.mark.parametrize(
    ("name", "pointer"),
    [
        ("customerId", "#/customerId"),
        ("Quantity", "#/Quantity"),
        ("product_id", "#/product_id"),
        ("", "#/"),
        ("a/b~c", "#/a~1b~0c"),
        ("ü %\u2028", "#/%C3%BC%20%25%E2%80%A8"),
        ("x" * 200, f"#/{'x' * 200}"),
        ("x" * 201, "#"),
    ],
)
def test_an_unknown_member_is_422_at_its_pointer(name: str, pointer: str) -> None:
    for value in ("1", "null", "{}", '[{},1e400,"\\ud83d\\ude00"]'):
        problem = problem_of(f"{{{json.dumps(name)}:{value},".encode() + body_of("1")[1:])
        assert (problem.status, problem.name) == (422, "invalid-value")
        assert [it.pointer for it in problem.errors] == [pointer]
        assert problem.detail.endswith(f" is unknown. The members here are {_MEMBERS}.")
        assert len(problem.body()) < 1_000


def test_unknown_members_are_said_together_with_all_else_that_is_wrong() -> None:
    problem = problem_of(b'{"customerId":7,"quantity":0,"colour":"x"}')
    assert (problem.status, problem.name) == (422, "invalid-value")
    assert [it.pointer for it in problem.errors] == ["#/productId", "#/quantity", "#/customerId", "#/colour"]


def test_of_very_many_unknown_members_the_first_are_named_and_the_rest_counted() -> None:
    members = ",".join(f'"{number}":1' for number in range(7_000))
    problem = problem_of(f"{{{members},".encode() + body_of("1")[1:])
    assert problem.status == 422
    assert [it.pointer for it in problem.errors] == [*(f"#/{number}" for number in range(20)), "#"]
    assert problem.errors[-1].detail.startswith("6980 more unknown members are not named here.")


@pytest.mark.parametrize(
    ("before", "named"),
    [
        ('"quantity":1', "quantity"),
        ('"productId":"x"', "productId"),
        ('"quant\\u0069ty":1', "quantity"),
        ('"\\u0071uantity":"x"', "quantity"),
        ('"x":1,"x":1', "x"),
        ('"":1,"":1', ""),
        ('"x":[{"a":{"b":1,"c":2,"b":1}}]', "b"),
        ('"x":{"y":1,"\\u0079":1}', "y"),
    ],
)
def test_a_member_that_comes_twice_is_malformed_and_named(before: str, named: str) -> None:
    problem = problem_of(f"{{{before},".encode() + body_of("1")[1:])
    assert (problem.status, problem.name, pointer_of(problem)) == (400, "malformed", None)
    assert problem.detail == f'The member "{named}" comes twice in one object. Send it once.'


def test_a_long_name_that_comes_twice_is_cut() -> None:
    name = "\0" * 10_000
    problem = problem_of(json.dumps({name: 1}).encode()[:-1] + b"," + json.dumps({name: 1}).encode()[1:])
    assert (problem.status, len(problem.detail) < 200) == (400, True)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"{", "The body is not valid JSON at character 1: Expecting property name enclosed in double quotes."),
        (b'{"x', "The body is not valid JSON at character 1: Unterminated string starting."),
        (b"\xef\xbb\xbf{}", "The body is not valid JSON at character 0: Unexpected UTF-8 BOM."),
        (b'{"x":NaN}', "The body is not valid JSON: NaN is no JSON number."),
        (b'{"x":"\xff"}', "The body is not UTF-8: the byte at 6 does not belong there."),
        (b'{"x":"\\ud800"}', "The body has half of a surrogate pair in a string. Send both halves, or plain UTF-8."),
        (b"[" * 60_000, "The body is nested too deeply to be read."),
    ],
)
def test_what_is_malformed_is_told_in_the_words_of_json(body: bytes, detail: str) -> None:
    assert problem_of(body).detail == detail


def test_an_element_of_many_is_judged_as_one_alone_and_pointed_to_in_the_whole() -> None:
    good, wrong, twice = (
        bulk.read(it) for it in (body_of("1"), b'{"productId":7,"a/b":1}', b'{"x":1,"x":1,' + body_of("1")[1:])
    )
    assert not isinstance(good, Problem)
    assert isinstance(wrong, Problem)
    assert isinstance(twice, Problem)
    assert [it.pointer for it in wrong.below("/5").errors] == ["#/5/productId", "#/5/quantity", "#/5/a~1b"]
    assert (twice.status, twice.detail) == (400, 'The member "x" comes twice in one object. Send it once.')


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{}", 422), (b"7", 422), (b"[", 400), (b"\xff", 400), (b'{"x":1,"x":2}', 400), (b"[" * 60_000, 400)],
)
def test_many_orders_are_an_array(body: bytes, status: int) -> None:
    with pytest.raises(Problem) as raised:
        bulk.split(body, is_ndjson=False)
    assert raised.value.status == status


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def _check_that_only_a_problem_comes_out(body: bytes) -> None:
    try:
        request = decode_request(body)
        be_canonical(request)
    except Problem as problem:
        status, _ = problem.status, json.loads(problem.body())
    else:
        status = 202
        assert all(1 <= line.quantity <= MAX_QUANTITY for line in requested_lines(request))
    assert status in (202, 400, 422)


@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_but_a_problem(body: bytes) -> None:
    _check_that_only_a_problem_comes_out(body)


@given(st.fixed_dictionaries({}, optional={"productId": _json_values, "quantity": _json_values, "x": _json_values}))
@example({"productId": PRODUCT_ID, "quantity": 10**400})
def test_random_json_never_raises_anything_but_a_problem(content: dict[str, object]) -> None:
    _check_that_only_a_problem_comes_out(json.dumps(content).encode())


@given(_json_values, st.sampled_from(["productId", "quantity", "x"]), _json_values, _json_values)
def test_no_body_with_a_member_twice_is_taken(product_id: object, name: str, value: object, other: object) -> None:
    members = [("productId", product_id), ("quantity", 1), (name, value), (name, other)]
    body = "{" + ",".join(f"{json.dumps(key)}:{json.dumps(it)}" for key, it in members) + "}"
    with pytest.raises(Problem) as raised:
        decode_request(body.encode())
    assert raised.value.status == 400


@given(st.data())
def test_a_damaged_order_never_raises_anything_but_a_problem(data: st.DataObject) -> None:
    body = bytearray(body_of("17"))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    _check_that_only_a_problem_comes_out(bytes(body))
