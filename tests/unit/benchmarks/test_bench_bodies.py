"""What the orders of a load look like: each product as often, no product twice in one order, a body a line."""

from collections import Counter

import msgspec
import pytest

from benchmarks.generators.bodies import DETAILED_BODIES, MAX_QUANTITY, PLAIN, Shape, order_bodies
from ingest_api.requests import AnyRequest, decode_request, requested_lines
from tests.support.data.orders import new_product_id

PRODUCTS = [new_product_id() for _ in range(30)]
BASKETS, HOT = Shape("baskets", lines=3), Shape("hot", lines=3, is_hot=True)


def requests(shape: Shape) -> list[AnyRequest]:
    return [decode_request(body) for body in order_bodies(PRODUCTS, shape)]


def products_of(request: AnyRequest) -> list[str]:
    return [line.product_id for line in requested_lines(request)]


def test_a_plain_body_is_what_it_always_was() -> None:
    first, second = order_bodies(PRODUCTS, PLAIN)[:2]
    assert first == b'{"productId":"%s","quantity":1}' % PRODUCTS[0].encode()
    assert second == b'{"productId":"%s","quantity":2}' % PRODUCTS[1].encode()


@pytest.mark.parametrize("shape", [PLAIN, BASKETS])
def test_all_products_are_ordered_equally_often_in_quantities_that_differ(shape: Shape) -> None:
    found = requests(shape)
    assert {len(products_of(it)) for it in found} == {shape.lines}
    ordered = Counter(product for it in found for product in products_of(it))
    assert set(ordered.values()) == {shape.lines}
    assert ordered.keys() == set(PRODUCTS)
    assert {line.quantity for it in found for line in requested_lines(it)} == {*range(1, MAX_QUANTITY + 1)}


def test_a_hot_product_is_in_every_order_once_and_the_others_are_spread() -> None:
    found = requests(HOT)
    ordered = Counter(product for it in found for product in products_of(it))
    (hot, times), *others = ordered.most_common()
    assert (hot, times) == (PRODUCTS[15], len(found))
    assert len(found) >= len(PRODUCTS) - 2
    assert max(count for _, count in others) <= 2
    assert len(others) == len(PRODUCTS) - 1


def test_each_detailed_order_has_a_reference_of_its_own_and_two_pairs() -> None:
    bodies = order_bodies(PRODUCTS, Shape("detailed", is_detailed=True))
    assert len({msgspec.json.decode(it)["reference"] for it in bodies}) == len(bodies) == DETAILED_BODIES
    assert all(len(decode_request(it).metadata or {}) == 2 for it in bodies[:100])


@pytest.mark.parametrize("shape", [PLAIN, BASKETS, HOT, Shape("detailed", is_detailed=True)])
def test_no_body_breaks_the_file_of_one_a_line(shape: Shape) -> None:
    assert not any(b"\n" in it for it in order_bodies(PRODUCTS, shape))
