"""Orders of lines before any I/O: what a request may hold, how it is refused, and what makes two requests the same."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.idempotency.records import Request, fingerprint_of, pack, unpack
from ingest_api.intake import bulk
from ingest_api.prices.catalogue import Product
from ingest_api.prices.pricing import prices_of
from ingest_api.requests import (
    AnyRequest,
    BasketRequest,
    LineRequest,
    OrderRequest,
    decode_request,
    requested_lines,
    to_any_order,
)
from pipeline.contract.orders import Basket
from web.problems import problems
from web.problems.problems import Problem
from web.requests import json_body

A, B, C = (f"01a20261-5c40-7b6e-9f0a-3d5c1e8a7b4{it}" for it in "abc")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def line(product_id: object = A, quantity: object = 1, **more: object) -> dict[str, object]:
    return {"productId": product_id, "quantity": quantity, **more}


def body_of(*lines: object, **members: object) -> bytes:
    return json.dumps({"lines": lines, **members}).encode()


def basket_of(*wanted: tuple[str, int], **details: Any) -> BasketRequest:
    return BasketRequest(lines=[LineRequest(*it) for it in wanted], **details)


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
@pytest.mark.parametrize("count", [1, 2, 50])
def test_a_basket_of_1_to_50_lines_is_taken_in_one_pass(count: int) -> None:
    wanted = [(f"{A[:-2]}{it:02x}", it + 1) for it in range(count)]
    assert decode_request(body_of(*(line(*it) for it in wanted))) == basket_of(*wanted)


@pytest.mark.usefixtures("once")
def test_a_basket_may_have_details_and_its_ids_become_canonical() -> None:
    details: dict[str, Any] = {"reference": "a:b", "metadata": {"c:d": '"e":', "f": ""}}
    assert decode_request(body_of(line(A.upper()), line(B, 2), **details)) == basket_of((A, 1), (B, 2), **details)
    assert decode_request(body_of(line(), reference=None, metadata={})) == basket_of((A, 1))


def test_a_name_with_escapes_is_the_same_name() -> None:
    assert decode_request(body_of(line()).replace(b"lines", b"l\\u0069nes")) == basket_of((A, 1))


# ── what is refused

WRONG: dict[str, tuple[bytes, list[str]]] = {
    "no lines": (body_of(), ["#/lines"]),
    "51 lines": (body_of(*(line(f"{A[:-2]}{it:02x}") for it in range(51))), ["#/lines"]),
    "10,000 lines with faults": (body_of(*[{}] * 10_000), ["#/lines"]),
    "null": (b'{"lines":null}', ["#/lines"]),
    "an object": (b'{"lines":{"productId":"x","quantity":1}}', ["#/lines"]),
    "lines that are no objects": (body_of(1, None, "x", []), [f"#/lines/{it}" for it in range(4)]),
    "a fault in each of three": (
        body_of(line(), line("x"), line(B, 0), {"quantity": 1}),
        ["#/lines/1/productId", "#/lines/2/quantity", "#/lines/3/productId"],
    ),
    "an unknown member of a line": (body_of(line(), line(B, colour="x")), ["#/lines/1/colour"]),
    "a product twice": (body_of(line(), line(B), line(A, 2), line(B)), ["#/lines/2/productId", "#/lines/3/productId"]),
    "a product twice, in capitals": (body_of(line(), line(A.upper())), ["#/lines/1/productId"]),
    "a product twice and an id that is none, twice": (
        body_of(line("x"), line("x"), line(), line()),
        [f"#/lines/{it}/productId" for it in (0, 1, 3)],
    ),
    "so many faults that not all are looked for": (
        body_of(*[line(f"{A[:-2]}{it:02x}", 0) for it in range(50)]),
        [*(f"#/lines/{it}/quantity" for it in range(10)), "#/lines"],
    ),
    "a product beside the lines": (body_of(line(), productId=B, quantity=1), ["#/productId", "#/quantity"]),
    "faults in and beside the lines": (
        body_of(line(quantity=0), reference="", other=1),
        ["#/lines/0/quantity", "#/reference", "#/other"],
    ),
}


@pytest.mark.parametrize(("body", "pointers"), WRONG.values(), ids=WRONG)
def test_every_fault_is_422_at_its_pointer(body: bytes, pointers: list[str]) -> None:
    problem = refused(body)
    assert (problem.status, problem.name) == (422, "invalid-value")
    assert [it.pointer for it in problem.errors] == pointers
    assert len(problem.body()) < 10_000


def test_a_product_that_comes_twice_names_the_line_it_was_in_first() -> None:
    assert refused(body_of(line(B), line(), line(A, 2))).detail == (
        "Line 1 is of this product as well. An order has each product in one line."
    )


LINE = body_of(line())[len('{"lines": [') : -len("]}")].decode()


@pytest.mark.parametrize(
    "body",
    [
        '{"lines":[{"quantity":2,' + LINE[1:] + "]}",
        '{"lines":[' + LINE + '],"lines":[' + LINE + "]}",
        '{"lines":[' + LINE + '],"metadata":{"a":"1","a":"2"}}',
        '{"lines":[' + LINE,
        '{"lines":[{"productId":"\\ud800","quantity":1}]}',
    ],
)
def test_what_is_not_json_or_comes_twice_is_400(body: str) -> None:
    problem = refused(body.encode())
    assert (problem.status, problem.name) == (400, "malformed")


def test_an_element_of_many_is_judged_as_one_alone() -> None:
    problem = bulk.read(body_of(line(), line(B, 0)))
    assert isinstance(problem, Problem)
    assert [it.pointer for it in problem.below("/7").errors] == ["#/7/lines/1/quantity"]


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([A, A.upper(), B]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("quantity"), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.fixed_dictionaries({}, optional={"productId": _anything, "quantity": _anything}) | _anything))
def test_random_lines_never_raise_anything_but_a_problem(lines: list[object]) -> None:
    request = bulk.read(body_of(*lines))
    if isinstance(request, Problem):
        assert (request.status, bool(json.loads(request.body()))) in ((400, True), (422, True))
    else:
        assert 1 <= len({it.product_id for it in requested_lines(request)}) == len(lines) <= 50


# ── prices


def product(price: str | None, *, sold_out: bool = False) -> Product:
    return Product(1, Decimal(price) if price is not None else None, sold_out, 0, 0)


def test_each_line_has_its_price_and_the_order_their_sum() -> None:
    request = basket_of((A, 2), (B, 3))
    prices = prices_of(request, {A: product("0.10"), B: product("19.90"), C: product("1")})
    order = to_any_order("id", request, prices, NOW)
    assert isinstance(order, Basket)
    assert [(it.line, it.total_price) for it in order.lines] == [(0, Decimal("0.20")), (1, Decimal("59.70"))]
    assert order.total_price == Decimal("59.90")


@pytest.mark.parametrize(
    ("products", "name", "lines"),
    [
        ((product("1"), product(None), product(None)), "unknown-product", [1, 2]),
        ((product("1", sold_out=True), product("1"), product("1", sold_out=True)), "out-of-stock", [0, 2]),
        ((product("1", sold_out=True), product(None), product("1")), "unknown-product", [1]),
    ],
)
def test_every_line_that_cannot_be_sold_is_named(products: tuple[Product, ...], name: str, lines: list[int]) -> None:
    with pytest.raises(Problem) as problem:
        prices_of(basket_of((A, 1), (B, 1), (C, 1)), dict(zip((A, B, C), products, strict=True)))
    assert problem.value.name == name
    assert [it.pointer for it in problem.value.errors] == [f"#/lines/{it}/productId" for it in lines]
    assert all((A, B, C)[it] in str(problem.value.body()) for it in lines)


def test_a_product_that_could_not_be_looked_up_refuses_the_basket_for_now() -> None:
    with pytest.raises(Problem) as problem:
        prices_of(basket_of((A, 1), (B, 1)), {A: product(None)})
    assert problem.value.name == "store-unavailable"


# ── P5: what makes two requests the same, and what is remembered


def test_p5_other_lines_are_another_order_and_so_is_another_shape() -> None:
    baskets = [basket_of((A, 1), (B, 2)), basket_of((B, 2), (A, 1)), basket_of((A, 1), (B, 3)), basket_of((A, 1))]
    requests: list[AnyRequest] = [*baskets, basket_of((A, 1), (B, 2), reference="x"), OrderRequest(A, 1)]
    assert len({fingerprint_of(it) for it in requests}) == len(requests)


def test_p5_a_basket_is_the_same_however_it_is_written_and_as_the_order_that_it_became() -> None:
    request = decode_request(body_of(line(), line(B, 2), reference="x"))
    other = decode_request(body_of(line(A.upper()), {"quantity": 2, "productId": B}, reference="\u0078"))
    order = to_any_order("id", request, [Decimal(1), Decimal(2)], NOW)
    assert fingerprint_of(request) == fingerprint_of(other) == fingerprint_of(order)


def test_p5_the_fingerprint_of_a_basket_outlives_releases() -> None:
    """Golden: another value here means that a retry across an upgrade makes every basket a second time."""
    assert fingerprint_of(basket_of((A, 1), (B, 2))).hex() == "42185f47c47e4bb24714abdc7fced33f"


def test_p5_a_refused_basket_counts_by_what_it_orders() -> None:
    """A later release may take it, and then the ids of its neighbours must not change."""
    too_many = body_of(line(A.upper(), 2_000_000), line(B, 2), metadata={"a": "b"})
    assert isinstance(bulk.read(too_many), Problem)
    taken = basket_of((A, 2_000_000), (B, 2), metadata={"a": "b"})
    assert bulk.fingerprint_of_all([too_many], [bulk.read(too_many)]) == bulk.fingerprint_of_all([too_many], [taken])


def test_p5_what_is_remembered_of_a_basket_is_all_of_it() -> None:
    request = basket_of((A, 2), (B, 3), reference="x")
    order = to_any_order("id", request, [Decimal("0.10"), Decimal("19.90")], NOW)
    assert unpack(pack(202, [order]), ["id"], [request]) == (202, [order])


def test_p5_refusals_are_remembered_with_the_lines_to_blame() -> None:
    requests: list[Request] = [basket_of((A, 1), (B, 2), (C, 3)) for _ in range(3)]
    results = [problems.sold_out_lines({0: A, 2: C}), problems.unknown_lines({1: B}), problems.store_unavailable()]
    _, again = unpack(pack(202, results), ["", "", ""], requests)
    assert [it.body() for it in again if isinstance(it, Problem)] == [it.body() for it in results]


@pytest.mark.parametrize(
    "noted", ["1 1.00", "1 1.00 2.00 3.00", "1 x y", "out-of-stock/7", "out-of-stock/x", "no-such"]
)
def test_what_was_not_noted_of_this_basket_is_a_value_error(noted: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (several)
        unpack(json.dumps([202, [noted], [0]]), ["id"], [basket_of((A, 1), (B, 2))])
