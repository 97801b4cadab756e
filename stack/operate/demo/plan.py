"""What a demo orders: drawn before it begins, and the same for a seed. Pure.

The n-th product is ordered as often as 1/√n says. The last of 100 has a hundredth of all.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from proof.load_result import Request
from proof.orders import Order, body_of, order_of
from stack.errors import HeadraceError

QUANTITIES = (1, 2, 3)
SCARCE_EVERY = 10
SCARCE_SHARE = 0.9

Pick = tuple[int, int]
"""One line: the product's index, and the quantity."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The orders to send, in order, and the initial stock of each product."""

    picks: Sequence[tuple[Pick, ...]]
    """The lines of each order, of different products."""
    stocks: Sequence[int]
    seed: int
    lines: int
    """Of each order."""


def make_plan(orders: int, products: int, seed: int, lines: int = 1) -> Plan:
    """Draw a plan. Raises HeadraceError if there are fewer products than an order has lines."""
    if lines > products:
        what = f"an order of {lines} lines needs {lines} different products, and there are {products}"
        raise HeadraceError(what, fix=f"./headrace demo --lines {lines} --products {max(100, lines)}")
    rng, weights = random.Random(seed), [(product + 1) ** -0.5 for product in range(products)]
    picks = _singles(rng, weights, orders) if lines == 1 else [_basket(rng, weights, lines) for _ in range(orders)]
    demand = [0] * products
    for pick in picks:
        for product, quantity in pick:
            demand[product] += quantity
    return Plan(picks, [_stock(product, asked) for product, asked in enumerate(demand)], seed, lines)


def _singles(rng: random.Random, weights: Sequence[float], orders: int) -> list[tuple[Pick, ...]]:
    kinds = [((product, quantity),) for product in range(len(weights)) for quantity in QUANTITIES]
    return rng.choices(kinds, [weights[product] for ((product, _),) in kinds], k=orders)


def _basket(rng: random.Random, weights: Sequence[float], lines: int) -> tuple[Pick, ...]:
    """A weighted draw of different products: each has a clock, and those that ring first are ordered."""
    rings = [rng.expovariate(weight) for weight in weights]
    first = heapq.nsmallest(lines, range(len(weights)), rings.__getitem__)
    return tuple((product, rng.choice(QUANTITIES)) for product in first)


def is_scarce(product: int) -> bool:
    return product % SCARCE_EVERY == 0


def _stock(product: int, demand: int) -> int:
    return max(1, int(demand * SCARCE_SHARE)) if is_scarce(product) else 2 * demand + 1


def requests_of(ingest_api: str, plan: Plan, product_ids: Sequence[str], token: str | None) -> Iterator[Request[Order]]:
    """The requests, in order. Orders of one line repeat, so each of those is made once."""
    url = f"{ingest_api}/api/v1/orders"
    made: dict[tuple[Pick, ...], Request[Order]] = {}
    for pick in plan.picks:
        if (request := made.get(pick)) is None:
            order = order_of([(product_ids[product], quantity) for product, quantity in pick])
            request = Request.post(url, body_of(order), order, token)
            if plan.lines == 1:
                made[pick] = request
        yield request
