"""What a demo orders: as many lines as were asked for, of different products, and too few units of some."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proof.orders import body_of
from stack.errors import HeadraceError
from stack.operate.demo.plan import QUANTITIES, is_scarce, make_plan, requests_of


@given(st.integers(1, 8), st.integers(0, 5), st.integers(0, 30))
def test_each_order_has_so_many_lines_of_different_products(lines: int, more: int, orders: int) -> None:
    plan = make_plan(orders, lines + more, 1, lines)
    assert len(plan.picks) == orders
    for pick in plan.picks:
        assert len({product for product, _ in pick}) == len(pick) == lines
        assert all(product < lines + more and quantity in QUANTITIES for product, quantity in pick)


def test_the_same_seed_is_the_same_plan() -> None:
    assert make_plan(50, 20, 7, 3) == make_plan(50, 20, 7, 3) != make_plan(50, 20, 8, 3)


@pytest.mark.parametrize("lines", [1, 3])
def test_the_first_products_are_ordered_more_often_and_one_in_ten_is_scarce(lines: int) -> None:
    plan = make_plan(5_000, 20, 1, lines)
    demand: Counter[int] = Counter()
    for pick in plan.picks:
        demand.update(dict(pick))
    assert demand[0] > 1.5 * demand[19] > 0
    assert [stock < demand[product] for product, stock in enumerate(plan.stocks)] == [*map(is_scarce, range(20))]


def test_more_lines_than_products_are_refused_with_what_to_do() -> None:
    with pytest.raises(HeadraceError, match="needs 3 different products, and there are 2") as refused:
        make_plan(10, 2, 1, 3)
    assert refused.value.fix == "./headrace demo --lines 3 --products 100"


@pytest.mark.parametrize("lines", [1, 2])
def test_the_requests_are_those_of_the_plan(lines: int) -> None:
    plan, ids = make_plan(20, 4, 1, lines), ["a", "b", "c", "d"]
    requests = list(requests_of("http://shop", plan, ids, None))
    assert [it.about.lines for it in requests] == [tuple((ids[at], n) for at, n in pick) for pick in plan.picks]
    assert all(it.raw.endswith(b"\r\n\r\n" + body_of(it.about)) for it in requests)
    assert (len(set(map(id, requests))) < 20) is (lines == 1)
