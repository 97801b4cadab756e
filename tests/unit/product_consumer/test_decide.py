"""P3 and P4 in the pure function: who gets the stock."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline.contract.orders import Order
from pipeline.contract.reasons import Reason
from product_consumer.decide import FAILED, PROCESSED, Stock, decide
from tests.support.data.orders import new_product_id, order

A, B, DELETED, UNKNOWN = (new_product_id() for _ in range(4))

stocks = st.fixed_dictionaries(
    {
        A: st.builds(Stock, st.integers(0, 30)),
        B: st.builds(Stock, st.integers(0, 30)),
        DELETED: st.builds(Stock, st.integers(0, 30), st.just(True)),
    }
)
# Few moments, so that many orders share one and the id has to decide.
orders_of_many = st.lists(
    st.builds(
        lambda product_id, quantity, at_ms: order(product_id, quantity, at_ms=at_ms),
        st.sampled_from([A, B, DELETED, UNKNOWN]),
        st.integers(1, 12),
        st.integers(0, 3),
    ),
    max_size=25,
)


def by_acceptance(orders: list[Order]) -> list[Order]:
    return sorted(orders, key=lambda it: (it.created_at, it.id))


@given(stocks, orders_of_many)
def test_p3_stock_is_never_negative_and_never_more_is_taken_than_there_is(
    stock: dict[str, Stock], orders: list[Order]
) -> None:
    decision = decide(stock, orders)
    assert all(0 < units <= stock[product_id].qty for product_id, units in decision.taken.items())


@given(stocks, orders_of_many)
def test_p3_what_is_taken_is_what_was_processed(stock: dict[str, Stock], orders: list[Order]) -> None:
    decision = decide(stock, orders)
    processed: Counter[str] = Counter()
    for verdict in decision.verdicts:
        if verdict.outcome == PROCESSED:
            processed[verdict.product_id] += verdict.quantity
    assert decision.taken == dict(processed)


@given(stocks, orders_of_many)
def test_p4_every_order_has_exactly_one_verdict_and_a_failed_one_its_reason(
    stock: dict[str, Stock], orders: list[Order]
) -> None:
    verdicts = decide(stock, orders).verdicts
    assert sorted(it.order_id for it in verdicts) == sorted(it.id for it in orders)
    assert all((it.outcome == FAILED) == (it.reason is not None) for it in verdicts)


@given(stocks, orders_of_many)
def test_p4_an_order_is_refused_only_when_what_those_before_it_left_does_not_hold_it(
    stock: dict[str, Stock], orders: list[Order]
) -> None:
    reasons = {it.order_id: it.reason for it in decide(stock, orders).verdicts}
    left = {product_id: it.qty for product_id, it in stock.items()}
    for it in by_acceptance(orders):
        if it.product_id == UNKNOWN:
            assert reasons[it.id] == Reason.UNKNOWN_PRODUCT
        elif it.product_id == DELETED:
            assert reasons[it.id] == Reason.PRODUCT_DELETED
        elif it.quantity > left[it.product_id]:
            assert reasons[it.id] == Reason.OUT_OF_STOCK
        else:
            assert reasons[it.id] is None
            left[it.product_id] -= it.quantity


@given(stocks, orders_of_many, st.randoms(use_true_random=False))
def test_p4_the_order_in_which_messages_come_changes_no_verdict(
    stock: dict[str, Stock], orders: list[Order], random: object
) -> None:
    shuffled = list(orders)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert decide(stock, shuffled) == decide(stock, orders)


def test_a_big_order_that_does_not_fit_does_not_block_a_small_one_behind_it() -> None:
    big, small = order(A, 6, at_ms=0), order(A, 5, at_ms=1)
    decision = decide({A: Stock(5)}, [big, small])
    assert [it.reason for it in decision.verdicts] == [Reason.OUT_OF_STOCK, None]
    assert decision.taken == {A: 5}


def test_the_first_to_be_accepted_gets_the_last_unit() -> None:
    late, early = order(A, at_ms=1), order(A, at_ms=0)
    decision = decide({A: Stock(1)}, [late, early])
    assert {it.order_id: it.reason for it in decision.verdicts} == {early.id: None, late.id: Reason.OUT_OF_STOCK}


def test_nothing_to_decide_takes_nothing() -> None:
    decision = decide({A: Stock(5)}, [])
    assert (decision.verdicts, decision.taken) == ([], {})
