"""What a load orders: bodies that ingest_api reads as meant, and mixes with the shares that were asked for."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.requests import decode_request, requested_lines
from pipeline.contract import orders as contract
from proof.orders import MAX_LINES, Line, Mix, Order, body_of, cancelling, order_of
from tests.support.data.orders import new_product_id
from tests.support.data.texts import TEXTS

PRODUCTS = [new_product_id() for _ in range(MAX_LINES)]
DRAWS = 5_000

lines_ = st.lists(st.tuples(st.sampled_from(PRODUCTS), st.integers(1, 9)), min_size=1, unique_by=lambda it: it[0])
texts = st.sampled_from([it[:64] for it in TEXTS.values() if it])
metadata_ = st.dictionaries(texts, texts, max_size=3).map(lambda it: tuple(it.items()))


def pick(count: int) -> Sequence[Line]:
    return [(product_id, 1) for product_id in PRODUCTS[:count]]


def drawn(mix: Mix) -> list[Order]:
    rng = random.Random(17)
    return [mix.draw(rng, pick) for _ in range(DRAWS)]


def share(found: Sequence[bool]) -> float:
    return sum(found) / len(found)


@given(lines_, st.none() | texts, metadata_)
def test_ingest_api_reads_in_a_body_what_was_to_be_ordered(
    lines: list[Line], reference: str | None, metadata: tuple[tuple[str, str], ...]
) -> None:
    request = decode_request(body_of(order_of(lines, reference, metadata)))
    assert [(it.product_id, it.quantity) for it in requested_lines(request)] == lines
    assert request.reference == reference
    assert tuple((request.metadata or {}).items()) == metadata


def test_an_order_may_have_as_many_lines_as_the_contract_allows() -> None:
    assert MAX_LINES == contract.MAX_LINES


def test_an_order_of_one_line_is_the_shortest_body() -> None:
    assert body_of(Order("p", 2)) == b'{"productId":"p","quantity":2}'


def test_a_mix_has_the_shares_that_were_asked_for() -> None:
    found = drawn(Mix(lines=3, baskets=1 / 3, detailed=0.5, pairs=4))
    assert {len(it.lines) for it in found} == {1, 3}
    assert share([len(it.lines) == 3 for it in found]) == pytest.approx(1 / 3, abs=0.03)
    assert share([it.reference is not None for it in found]) == pytest.approx(1 / 2, abs=0.03)
    assert {len(it.metadata) for it in found} == {0, 4}
    rng, mix = random.Random(17), Mix(cancelled=0.05)
    assert share([mix.is_cancelled(rng) for _ in range(DRAWS)]) == pytest.approx(0.05, abs=0.01)


def test_a_mix_that_is_not_told_otherwise_is_plain_orders_of_one_line() -> None:
    assert set(drawn(Mix())) == {Order(PRODUCTS[0], 1)}
    assert not Mix().is_cancelled(random.Random(17))


def test_references_identify_their_orders() -> None:
    assert len({it.reference for it in drawn(Mix(detailed=1.0))}) == DRAWS


@pytest.mark.parametrize("wrong", [{"lines": 0}, {"lines": MAX_LINES + 1}, {"baskets": 1.1}, {"cancelled": -0.1}])
def test_a_mix_that_cannot_be_sent_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"lines|share"):
        Mix(**wrong)  # type: ignore[arg-type]  # lines is an int, the shares are floats


def test_a_cancellation_names_its_order_in_the_path() -> None:
    request = cancelling("http://shop:8080/api/v1/orders", "an-id", "a-token")
    assert request.raw.startswith(b"POST /api/v1/orders/an-id/cancel HTTP/1.1\r\nHost: shop:8080\r\n")
    assert b"Authorization: Bearer a-token\r\n" in request.raw
    assert (request.about, request.raw[-4:]) == ("an-id", b"\r\n\r\n")
