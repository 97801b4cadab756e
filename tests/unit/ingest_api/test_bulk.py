"""Bulk requests: what is in them, and what becomes of each element."""

import json
import time
import uuid
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from ingest_api.idempotency.records import Request, fingerprint_of
from ingest_api.intake.bulk import MAX_ORDERS, answer_of, fingerprint_of_all, read, split, to_orders
from ingest_api.prices.catalogue import Product
from ingest_api.requests import OrderRequest
from pipeline.contract.order_ids import OrderIds
from pipeline.contract.orders import Order
from tests.support.data.problems import pointer_of
from web.problems.problems import Problem, invalid

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
    }
    requests: list[Request] = [
        OrderRequest(A, 2),
        invalid("/quantity", "no"),
        *(OrderRequest(it, 1) for it in (unknown, sold_out, unasked)),
    ]
    first, *others = to_orders([str(uuid.uuid4()) for _ in requests], requests, products, datetime.now(UTC))
    assert isinstance(first, Order)
    assert (first.product_id, first.quantity, first.total_price) == (A, 2, Decimal("25.00"))
    names = [it.name for it in others if isinstance(it, Problem)]
    assert names == ["invalid-value", "unknown-product", "out-of-stock", "store-unavailable"]


# ── P5: what makes two bulk requests with one key the same


def print_of(*elements: bytes) -> bytes:
    return fingerprint_of_all(elements, [read(it) for it in elements])


def test_two_bulk_requests_are_the_same_if_they_order_the_same_in_the_same_order() -> None:
    one, two, bad, worse = element(quantity=1), element(quantity=2), element(quantity=0), b'{"quantity": 1}'
    prints = [print_of(*it) for it in ([one, two], [two, one], [one], [one, bad], [bad, one], [one, worse])]
    assert len(set(prints)) == len(prints)
    assert print_of(element(A.upper(), 1), b" " + two.replace(b":", b" :\t")) == prints[0]


@pytest.mark.parametrize("bad", [b"{", b"1", b'{"productId": "x", "quantity": 1}', element(quantity=0)])
def test_p5_what_we_say_of_a_bad_element_is_no_part_of_the_fingerprint(bad: bytes) -> None:
    elements = element(), bad
    said = [fingerprint_of_all(elements, [read(elements[0]), invalid("", text)]) for text in ("no", "never")]
    assert said[0] == said[1] == print_of(*elements)


def test_p5_an_element_that_another_release_accepts_has_the_same_fingerprint_there() -> None:
    refused_there = fingerprint_of_all([element(A.upper(), 2)], [invalid("/customerId", "is not known")])
    assert refused_there == print_of(element(A, 2))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b'{"a": [1, 2]}', b'{ "a" :[1,2]\r}', True),
        (b'{"a": "x y"}', b'{"a": "xy"}', False),
        (b'{"a": "\\" x"}', b'{"a": "\\"x"}', False),
        (b"1 2", b"12", True),  # neither is JSON
        (b'"', b'" ', False),
        (b"[" * 9999, b"[ " * 9999, True),
    ],
)
def test_p5_white_space_between_tokens_is_no_part_of_the_fingerprint(one: bytes, other: bytes, same: bool) -> None:
    assert (print_of(one) == print_of(other)) is same


def test_p8_no_element_takes_long_to_fingerprint() -> None:
    worst = b'"' + b'\\"' * 250_000, b'{"productId": "%s", "quantity": %s}' % (A.encode(), b"9" * 500_000)
    began = time.process_time()
    for bad in worst:
        print_of(bad)
    assert time.process_time() - began < 2


def test_p5_the_ids_of_valid_orders_outlive_releases() -> None:
    """Golden: another value here means that a retry across an upgrade makes every order a second time."""
    ids = OrderIds("6b" * 32)
    fingerprint = print_of(element(A, 1), element(A.upper(), 2))
    assert fingerprint.hex() == "3e3fa191353b8a24eb377aaa368eae22"
    assert ids.derive_many("shop", "k1", fingerprint.hex(), 2) == [
        "938ba90b-2ed6-8706-9df9-c3940060a62f",
        "938ba90b-2ed6-8706-9df9-c394013444f4",
    ]
    assert ids.derive("shop", "k1", fingerprint_of(OrderRequest(A, 2)).hex()) == "d0c9ad44-52d2-8610-b805-31d95821dd43"
    mixed = print_of(element(A, 1), b'{"productId": "x"}', b"{")
    assert mixed.hex() == "0c5a85083bb6782167e084cc34a8b1d3"
