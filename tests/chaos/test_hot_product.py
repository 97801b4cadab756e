"""Everybody wants the same thing, and there is not enough of it."""

from collections.abc import Iterator

import pytest

from tests.chaos.notes import MAX_QUANTITY, Wanted, some_orders
from tests.chaos.scene import Scene
from tests.chaos.signs import Counts
from tests.conditions import eventually
from tests.workers import connected

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

# At 500 units an order, 1,000 orders; three times as many are sent: 5 s of them.
STOCK = 500_000
_LEAST_REFUSED = "SELECT min(quantity) FROM stock_ledger WHERE product_id = $1 AND outcome = 'FAILED'"
_LEFT = "SELECT qty FROM products WHERE id = $1"


@pytest.mark.scenario("10", "one product, three times its stock wanted; 4 persist_workers, 3 product_consumers")
async def test_p3_everybody_wants_one_product_and_there_is_a_third_of_it(scene: Scene) -> None:
    """P3: sold to the last unit that anybody could have, and no further. P4: whoever gets none hears why."""
    await scene.make_products()
    others = list(scene.products)
    await scene.make_products(1, STOCK)
    rush = Rush(some_orders(scene.rng, others), some_orders(scene.rng, scene.products[-1:]), 3 * STOCK)
    async with scene.more(persist_worker=3, product_consumer=2), scene.under_load(rush.orders()):
        rush.has_begun = True
        await eventually(lambda: rush.left <= 0, 60)
        scene.over()
        await scene.recovers()
    await scene.check(
        Counts("ingest_api", 'headrace_orders_refused_total{reason="out-of-stock"}'),
    )
    async with connected(scene.database_url) as connection:
        hot = scene.products[-1]
        left, least_refused = await connection.fetchval(_LEFT, hot), await connection.fetchval(_LEAST_REFUSED, hot)
    assert least_refused is not None, "nobody was refused by the ledger"
    assert 0 <= left < min(least_refused, MAX_QUANTITY)


class Rush:
    """What is wanted: many products; from when it has begun one product, until so many units of it were wanted."""

    def __init__(self, usual: Iterator[Wanted], hot: Iterator[Wanted], units: int) -> None:
        self._usual, self._hot = usual, hot
        self.left = units
        self.has_begun = False

    def orders(self) -> Iterator[Wanted]:
        while True:
            if self.has_begun and self.left > 0:
                wanted = next(self._hot)
                self.left -= wanted.quantity
                yield wanted
            else:
                yield next(self._usual)
