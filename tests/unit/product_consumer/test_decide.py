"""P3 and P4 in the pure function: who gets the stock."""

from collections import Counter
from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from pipeline.contract.orders import AnyOrder, Basket, Order, lines_of
from pipeline.contract.reasons import Reason
from product_consumer.decide import CANCELLED, FAILED, PROCESSED, Stock, Verdict, decide
from tests.support.data.orders import basket, new_product_id, order

A, B, C, DELETED, UNKNOWN = (new_product_id() for _ in range(5))

stocks = st.fixed_dictionaries(
    {
        A: st.builds(Stock, st.integers(0, 30)),
        B: st.builds(Stock, st.integers(0, 30)),
        C: st.builds(Stock, st.integers(0, 30)),
        DELETED: st.builds(Stock, st.integers(0, 30), st.just(True)),
    }
)
# Most can be sold, or few baskets would be processed.
products = st.sampled_from([A, A, A, B, B, B, C, C, C, DELETED, UNKNOWN])
# Few moments, so that many orders share one and the id has to decide.
moments = st.integers(0, 3)
one_line = st.builds(
    lambda product_id, quantity, at_ms: order(product_id, quantity, at_ms=at_ms), products, st.integers(1, 12), moments
)
several_lines = st.builds(
    lambda wanted, at_ms: basket(*wanted.items(), at_ms=at_ms),
    st.dictionaries(products, st.integers(1, 12), min_size=2),
    moments,
)
singles = st.lists(one_line, max_size=25)
mixed = st.lists(one_line | several_lines, max_size=25)


def by_acceptance(orders: Sequence[AnyOrder]) -> list[AnyOrder]:
    return sorted(orders, key=lambda it: (it.created_at, it.id))


def units(orders: Sequence[AnyOrder]) -> dict[str, int]:
    """What these orders ask for, by product."""
    wanted: Counter[str] = Counter()
    for line in (line for it in orders for line in lines_of(it)):
        wanted[line.product_id] += line.quantity
    return dict(wanted)


@given(stocks, mixed)
def test_p3_stock_is_never_negative_and_never_more_is_taken_than_there_is(
    stock: dict[str, Stock], orders: list[AnyOrder]
) -> None:
    decision = decide(stock, orders)
    assert all(0 < taken <= stock[product_id].qty for product_id, taken in decision.taken.items())


@given(stocks, mixed)
def test_p3_what_is_taken_is_all_lines_of_what_was_processed_and_nothing_of_the_rest(
    stock: dict[str, Stock], orders: list[AnyOrder]
) -> None:
    decision = decide(stock, orders)
    processed = {it.order_id for it in decision.verdicts if it.outcome == PROCESSED}
    assert decision.taken == units([it for it in orders if it.id in processed])


@given(stocks, mixed)
def test_p4_every_order_has_exactly_one_verdict_and_a_failed_one_its_reason(
    stock: dict[str, Stock], orders: list[AnyOrder]
) -> None:
    verdicts = decide(stock, orders).verdicts
    assert [it.order_id for it in verdicts] == [it.id for it in by_acceptance(orders)]
    assert all((it.outcome == FAILED) == (it.reason is not None) for it in verdicts)


@given(stocks, mixed)
def test_p4_an_order_is_refused_only_when_what_those_before_it_left_does_not_hold_it(
    stock: dict[str, Stock], orders: list[AnyOrder]
) -> None:
    """And the verdict names the first line that is to blame, why, and how many units were left for it."""
    verdicts = {it.order_id: it for it in decide(stock, orders).verdicts}
    left = {product_id: it.qty for product_id, it in stock.items()}
    for it in by_acceptance(orders):
        verdict = verdicts[it.id]
        found = [(line.line, *refusal(line.product_id, line.quantity, left)) for line in lines_of(it)]
        refused = [(line, *why) for line, *why in found if why[0] is not None]
        if not refused:
            assert (verdict.reason, verdict.failed_line, verdict.units_left) == (None, None, None)
            for line in lines_of(it):
                left[line.product_id] -= line.quantity
        else:
            first, reason, units_left = refused[0]
            assert (verdict.reason, verdict.units_left) == (reason, units_left)
            assert verdict.failed_line == (first if isinstance(it, Basket) else None)


def refusal(product_id: str, quantity: int, left: Mapping[str, int]) -> tuple[Reason | None, int | None]:
    if product_id == UNKNOWN:
        return Reason.UNKNOWN_PRODUCT, None
    if product_id == DELETED:
        return Reason.PRODUCT_DELETED, None
    return (Reason.OUT_OF_STOCK, left[product_id]) if quantity > left[product_id] else (None, None)


@given(stocks, mixed, st.randoms(use_true_random=False))
def test_p4_the_order_in_which_messages_come_changes_no_verdict(
    stock: dict[str, Stock], orders: list[AnyOrder], random: object
) -> None:
    shuffled = list(orders)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert decide(stock, shuffled) == decide(stock, orders)


@given(stocks, singles)
def test_orders_of_one_line_are_decided_as_before_there_were_baskets(
    stock: dict[str, Stock], orders: list[Order]
) -> None:
    decision = decide(stock, orders)
    found = [(it.order_id, it.product_id, it.quantity, it.reason, it.line_count) for it in decision.verdicts]
    assert (found, decision.taken) == as_before(stock, orders)


def as_before(stock: Mapping[str, Stock], orders: Sequence[Order]) -> tuple[list[object], dict[str, int]]:
    """The function as it was while every order had one line."""
    verdicts: list[object] = []
    taken: dict[str, int] = {}
    left = {product_id: it.qty for product_id, it in stock.items()}
    for it in sorted(orders, key=lambda it: (it.created_at, it.id)):
        product = stock.get(it.product_id)
        reason = None
        if product is None:
            reason = Reason.UNKNOWN_PRODUCT
        elif product.deleted:
            reason = Reason.PRODUCT_DELETED
        elif it.quantity > left[it.product_id]:
            reason = Reason.OUT_OF_STOCK
        if reason is None:
            left[it.product_id] -= it.quantity
            taken[it.product_id] = taken.get(it.product_id, 0) + it.quantity
        verdicts.append((it.id, it.product_id, it.quantity, reason, None))
    return verdicts, taken


@given(stocks, mixed, st.data())
def test_p4_cancelled_orders_take_nothing_and_the_others_are_decided_as_if_they_were_not_there(
    stock: dict[str, Stock], orders: list[AnyOrder], data: st.DataObject
) -> None:
    cancelled = data.draw(st.sets(st.sampled_from([it.id for it in orders]))) if orders else set()
    decision = decide(stock, orders, cancelled)
    others = decide(stock, [it for it in orders if it.id not in cancelled])
    assert [it for it in decision.verdicts if it.order_id not in cancelled] == others.verdicts
    assert decision.taken == others.taken
    of_cancelled = [it for it in decision.verdicts if it.order_id in cancelled]
    assert {it.order_id for it in of_cancelled} == cancelled
    assert all((it.outcome, it.reason) == (CANCELLED, None) for it in of_cancelled)


def test_a_big_order_that_does_not_fit_does_not_block_a_small_one_behind_it() -> None:
    big, small = order(A, 6, at_ms=0), order(A, 5, at_ms=1)
    decision = decide({A: Stock(5)}, [big, small])
    assert [it.reason for it in decision.verdicts] == [Reason.OUT_OF_STOCK, None]
    assert decision.taken == {A: 5}


def test_a_basket_that_does_not_fit_takes_nothing_and_does_not_block_a_small_one_behind_it() -> None:
    big, small, single = basket((A, 5), (B, 2), at_ms=0), basket((A, 3), (B, 1), at_ms=1), order(A, 2, at_ms=2)
    decision = decide({A: Stock(5), B: Stock(1)}, [big, small, single])
    assert decision.verdicts == [
        Verdict(big.id, None, None, Reason.OUT_OF_STOCK, line_count=2, failed_line=1, units_left=1),
        Verdict(small.id, None, None, line_count=2),
        Verdict(single.id, A, 2),
    ]
    assert decision.taken == {A: 5, B: 1}


def test_the_first_to_be_accepted_gets_the_last_unit() -> None:
    late, early = order(A, at_ms=1), order(A, at_ms=0)
    decision = decide({A: Stock(1)}, [late, early])
    assert {it.order_id: it.reason for it in decision.verdicts} == {early.id: None, late.id: Reason.OUT_OF_STOCK}


def test_nothing_to_decide_takes_nothing() -> None:
    decision = decide({A: Stock(5)}, [])
    assert (decision.verdicts, decision.taken) == ([], {})
