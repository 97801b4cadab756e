"""What product_api takes and refuses, before any I/O."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from product_api.preconditions import check_if_match, matches_if_none_match, require_if_match
from product_api.products import new_product_id
from product_api.requests import (
    MAX_QTY,
    Edit,
    ProductValues,
    decode_patch,
    decode_product,
    decode_restock,
)
from tests.support.data.problems import pointer_of
from web.problems.problems import Problem

_OLD = ProductValues("Laptop", Decimal("1500.00"), 50)


def _refused(decode: Callable[[bytes], object], body: bytes) -> tuple[int, str | None]:
    with pytest.raises(Problem) as caught:
        decode(body)
    return caught.value.status, pointer_of(caught.value)


def _product(name: str = '"Laptop"', price: str = "1500", qty: str = "50") -> bytes:
    return f'{{"name": {name}, "price": {price}, "qty": {qty}}}'.encode()


# ── whole products


def test_a_product_is_its_name_price_and_qty() -> None:
    body = b'{"name": "Laptop", "price": 1500, "qty": 50}'
    assert decode_product(body) == ProductValues("Laptop", Decimal(1500), 50)


@pytest.mark.parametrize(
    ("decode", "body", "members"),
    [
        (decode_product, _product(), "name, price and qty"),
        (decode_patch, b"{}", "name, price and qty"),
        (decode_patch, b'{"price": 1}', "name, price and qty"),
        (decode_restock, b'{"quantity": 1}', "quantity"),
    ],
)
def test_an_unknown_member_is_refused_at_its_pointer(
    decode: Callable[[bytes], object], body: bytes, members: str
) -> None:
    decode(body)
    for name in ("Price", "id", "version", "reason"):
        unknown = json.dumps(json.loads(body) | {name: None}).encode()
        assert _refused(decode, unknown) == (422, f"/{name}")
    with pytest.raises(Problem) as caught:
        decode(b'{"id": 7, "qty": -1, "quantity": 0, "a/b": 1}')
    assert {"#/id", "#/a~1b"} < {it.pointer for it in caught.value.errors}
    assert f"The members here are {members}." in caught.value.errors[-1].detail


@pytest.mark.parametrize("price", ["0", "-0", "0.01", "0.1", "89.90", "1e3", "1.500", '"19.99"', "9999999999.99"])
def test_a_price_is_read_exactly(price: str) -> None:
    assert decode_product(_product(price=price)).price == Decimal(price.strip('"'))


@pytest.mark.parametrize("price", ["1." + "0" * 20_000, "0." + "0" * 20_000, "0e-20000", "1e2"])
def test_a_price_is_kept_in_cents_however_long_it_is_written(price: str) -> None:
    """PostgreSQL refuses a number of more than 16,383 decimal places, zeros or not."""
    assert decode_product(_product(price=price)).price.as_tuple().exponent == -2


@pytest.mark.parametrize(
    "price",
    [
        "-0.01",
        "0.001",
        "10000000000",
        "9999999999.991",
        "1e10",
        "1e999999",
        "1e-999999",
        "1e99999999999999999999",
        "1.0000000000000000000000000000000000000001",
        '"NaN"',
        '"Infinity"',
        '"sNaN"',
        '"cheap"',
        '""',
        '" 10 "',
        '"1_0"',
        '"\u0661\u0660"',
        '"\\u0031"',
        '"1e3"',
        '"+1"',
        '".5"',
        "{}",
        "null",
        "true",
        "[]",
    ],
)
def test_a_price_that_the_database_cannot_hold_exactly_is_refused(price: str) -> None:
    assert _refused(decode_product, _product(price=price)) == (422, "/price")


@pytest.mark.parametrize("qty", ["0", "1", str(MAX_QTY)])
def test_qty_may_be_zero_and_up_to_its_limit(qty: str) -> None:
    assert decode_product(_product(qty=qty)).qty == int(qty)


@pytest.mark.parametrize("qty", ["-1", str(MAX_QTY + 1), "1.5", "5.0", '"5"', "null", "9" * 40, "true"])
def test_a_qty_that_is_no_count_is_refused(qty: str) -> None:
    assert _refused(decode_product, _product(qty=qty)) == (422, "/qty")


@pytest.mark.parametrize("name", ["x", "x" * 200, "  Ünïcode 漢字 👩‍💻  "])
def test_a_name_is_taken_without_its_outer_spaces(name: str) -> None:
    assert decode_product(_product(name=f'"{name}"')).name == name.strip()


@pytest.mark.parametrize(
    "name", ['""', '"   "', '"a\\u0000b"', '"a\\nb"', '"a\\u0085b"', f'"{"x" * 201}"', "7", "null"]
)
def test_a_name_that_is_empty_or_long_or_has_controls_is_refused(name: str) -> None:
    assert _refused(decode_product, _product(name=name)) == (422, "/name")


@pytest.mark.parametrize("field", ["name", "price", "qty"])
def test_a_missing_field_is_pointed_at(field: str) -> None:
    fields = {"name": '"Laptop"', "price": "1", "qty": "1"}
    body = ", ".join(f'"{name}": {value}' for name, value in fields.items() if name != field)
    assert _refused(decode_product, f"{{{body}}}".encode()) == (422, f"/{field}")


def _errors(decode: Callable[[bytes], object], body: bytes) -> list[str | None]:
    with pytest.raises(Problem) as caught:
        decode(body)
    assert caught.value.status == 422
    return [error.pointer for error in caught.value.errors]


def test_all_that_is_wrong_is_said_at_once() -> None:
    everything = ["#/name", "#/price", "#/qty"]
    assert _errors(decode_product, b"{}") == everything
    for wrong in (
        _product('""', "0.001", "-1"),
        _product("null", "null", "null"),
        _product('"a\\u0000"', '"1e3"', "1.0"),
    ):
        assert _errors(decode_product, wrong) == everything
        assert _errors(decode_patch, wrong) == everything
    assert _errors(decode_product, _product(price="-1", qty="[]")) == ["#/price", "#/qty"]
    assert _errors(decode_patch, b'{"price": "x", "name": ""}') == ["#/name", "#/price"]


@pytest.mark.parametrize("name", ["name", "price", "qty", "n\\u0061me", "x"])
def test_a_member_that_comes_twice_is_malformed(name: str) -> None:
    twice = f'{{"x": 1, "{name}": null, '.encode() + _product()[1:]
    assert _refused(decode_product, twice) == (400, None)
    assert _refused(decode_patch, twice) == (400, None)
    assert _refused(decode_restock, b'{"quantity": 1, "quantity": 1}') == (400, None)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.decimals().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


@given(
    st.binary(max_size=100)
    | st.dictionaries(st.sampled_from(["name", "price", "qty", "quantity", "x"]), _JSON).map(
        lambda content: json.dumps(content).encode()
    )
)
def test_whatever_comes_is_a_product_or_a_problem(body: bytes) -> None:
    for decode in (decode_product, decode_patch, decode_restock):
        with suppress(Problem):
            decode(body)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b'{"name": "\xff"}', b'{"name": "\\ud800"}', b"nope", _product() + b"{}"]
)
def test_what_is_no_json_is_malformed(body: bytes) -> None:
    assert _refused(decode_product, body) == (400, None)


def test_deep_json_is_malformed_and_no_crash() -> None:
    body = b'{"junk": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"
    assert _refused(decode_product, body) == (400, None)


# ── patches and restocks


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        (b"{}", _OLD),
        (b'{"name": " Book "}', _OLD._replace(name="Book")),
        (b'{"price": 1}', _OLD._replace(price=Decimal(1))),
    ],
)
def test_a_patch_changes_what_it_names_and_nothing_else(patch: bytes, expected: ProductValues) -> None:
    assert decode_patch(patch).edit(_OLD) == expected


def test_a_patch_says_whether_it_sets_qty() -> None:
    assert decode_patch(b'{"qty": 50}').sets_qty
    assert not decode_patch(b'{"name": "Book", "price": 1}').sets_qty


@pytest.mark.parametrize("field", ["name", "price", "qty"])
def test_a_patch_cannot_remove_a_field(field: str) -> None:
    assert _refused(decode_patch, f'{{"{field}": null}}'.encode()) == (422, f"/{field}")


@pytest.mark.parametrize("body", [b"[]", b"7", b"null"])
def test_a_patch_is_an_object(body: bytes) -> None:
    assert _refused(decode_patch, body) == (422, "")


def test_a_restock_adds() -> None:
    assert decode_restock(b'{"quantity": 7}')(_OLD) == _OLD._replace(qty=57)


@pytest.mark.parametrize("quantity", ["0", "-1", "1000000001", "1.5", "null", '"1"'])
def test_a_restock_is_of_one_to_a_billion(quantity: str) -> None:
    assert _refused(decode_restock, f'{{"quantity": {quantity}}}'.encode()) == (422, "/quantity")


def test_a_restock_cannot_pass_the_limit_of_qty() -> None:
    restock: Edit = decode_restock(b'{"quantity": 2}')
    assert restock(_OLD._replace(qty=MAX_QTY - 2)).qty == MAX_QTY
    with pytest.raises(Problem) as caught:
        restock(_OLD._replace(qty=MAX_QTY - 1))
    assert (caught.value.status, pointer_of(caught.value)) == (422, "/quantity")


# ── preconditions


@pytest.mark.parametrize("values", [[], ["*"], ['"3"'], ['"1", "3"'], ['"1"', '"3"'], ['"1",,"3" ,'], ['W/"1", "3"']])
def test_if_match_lets_the_named_version_pass(values: list[str]) -> None:
    check_if_match(values, 3)


def test_where_it_is_required_any_if_match_will_do() -> None:
    require_if_match(["*"])
    require_if_match(['"1"'])
    with pytest.raises(Problem) as caught:
        require_if_match([])
    assert (caught.value.status, caught.value.name) == (428, "precondition-required")


@pytest.mark.parametrize("values", [['"4"'], ['W/"3"'], ['"33"'], ['"x,3"'], ['""'], ['"1"', '"2"']])
def test_if_match_refuses_another_version_and_weak_tags(values: list[str]) -> None:
    with pytest.raises(Problem) as caught:
        check_if_match(values, 3)
    assert caught.value.status == 412


@pytest.mark.parametrize("values", [["3"], [""], ['"3'], ['"1" "3"'], ['w/"3"'], ['*, "3"']])
def test_an_if_match_without_etags_is_malformed(values: list[str]) -> None:
    with pytest.raises(Problem) as caught:
        check_if_match(values, 3)
    assert caught.value.status == 400


@pytest.mark.parametrize("values", [["*"], ['"3"'], ['W/"3"'], ['"1", W/"3"'], ['"1"', '"3"']])
def test_if_none_match_knows_the_version_the_client_has(values: list[str]) -> None:
    assert matches_if_none_match(values, 3)


@pytest.mark.parametrize("values", [[], ['"4"'], ["3"], ['W/"4"'], ['"x,3"']])
def test_if_none_match_of_anything_else_sends_the_body(values: list[str]) -> None:
    assert not matches_if_none_match(values, 3)


# ── ids


def test_product_ids_are_uuids_of_version_7_and_unique() -> None:
    ids = [new_product_id() for _ in range(10_000)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", it) for it in ids)
    assert [UUID(it).int >> 80 for it in ids] == sorted(UUID(it).int >> 80 for it in ids)
