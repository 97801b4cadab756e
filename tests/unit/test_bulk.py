"""Bulk requests: what is in them, and what becomes of each element."""

import json
import uuid
from decimal import Decimal

import pytest

from ingest_api.bulk import MAX_ORDERS, Request, answer_of, fingerprint_of_all, read, split, to_orders
from ingest_api.catalogue import Product
from ingest_api.requests import OrderRequest
from pipeline.orders import Order
from tests.problems import pointer_of
from web.problems import Problem, invalid

A = "38031c8e-4a7c-4017-a3d4-133b1a5f86ad"


def element(product_id: str = A, quantity: object = 1) -> bytes:
    return json.dumps({"productId": product_id, "quantity": quantity}).encode()


def test_an_array_and_ndjson_are_the_same_request() -> None:
    elements = [element(quantity=1), element(quantity=2)]
    assert split(b"[" + b" , ".join(elements) + b"]", is_ndjson=False) == elements
    assert split(b"\n".join(elements), is_ndjson=True) == elements
    assert split(b"\r\n".join(elements) + b"\r\n\r\n", is_ndjson=True) == elements


@pytest.mark.parametrize("body", [b"[]", b"[" + b",".join([b"1"] * (MAX_ORDERS + 1)) + b"]"])
def test_a_bulk_request_has_bounds(body: bytes) -> None:
    with pytest.raises(Problem) as refused:
        split(body, is_ndjson=False)
    assert (refused.value.status, pointer_of(refused.value)) == (422, "")


@pytest.mark.parametrize(
    ("body", "status"), [(b"{}", 422), (b"[", 400), (b"[1,]", 400), (b"[" * 9999, 400), (b"", 400)]
)
def test_what_is_no_array_is_a_problem(body: bytes, status: int) -> None:
    with pytest.raises(Problem) as refused:
        split(body, is_ndjson=False)
    assert refused.value.status == status


def test_an_element_is_judged_by_itself() -> None:
    assert read(element(A.upper(), 2)) == OrderRequest(A, 2)
    for bad in (b"1", b"null", b"{", element("x"), element(quantity=0), element(quantity="1")):
        assert isinstance(read(bad), Problem)


def test_a_problem_points_at_its_field_in_the_whole_body() -> None:
    problem = json.loads(answer_of(invalid("/quantity", "no"), 17))
    assert problem["errors"] == [{"pointer": "#/17/quantity", "detail": "no"}]


def test_every_request_becomes_an_order_or_a_problem_in_its_place() -> None:
    unknown, sold_out, unasked = (str(uuid.uuid4()) for _ in range(3))
    products = {
        A: Product(1, Decimal("12.50"), False, 0, 0),
        unknown: Product(0, None, False, 0, 0),
        sold_out: Product(1, Decimal(1), True, 0, 0),
        unasked: None,
    }
    requests: list[Request] = [
        OrderRequest(A, 2),
        invalid("/quantity", "no"),
        *(OrderRequest(it, 1) for it in products if it != A),
    ]
    first, *others = to_orders([str(uuid.uuid4()) for _ in requests], requests, products, in_doubt=False)
    assert isinstance(first, Order)
    assert (first.product_id, first.quantity, first.total_price) == (A, 2, Decimal("25.00"))
    names = [it.name for it in others if isinstance(it, Problem)]
    assert names == ["invalid-value", "unknown-product", "out-of-stock", "store-unavailable"]


def test_two_bulk_requests_are_the_same_if_they_order_the_same_in_the_same_order() -> None:
    one, two = OrderRequest(A, 1), OrderRequest(A, 2)
    bad, worse = invalid("/quantity", "no"), invalid("/quantity", "never")
    asked: list[list[Request]] = [[one, two], [two, one], [one], [one, bad], [bad, one], [one, worse]]
    prints = [fingerprint_of_all(requests) for requests in asked]
    assert len(set(prints)) == len(prints)
    assert fingerprint_of_all([OrderRequest(A, 1), two]) == prints[0]
