"""Everybody wants the same thing, and there is not enough of it."""

from collections.abc import Iterator

import pytest

from tests.chaos.account.signs import Counts, Logged
from tests.chaos.scene.attempts import WantedOrder, some_orders
from tests.chaos.scene.scene import Scene
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

# At 2 units an order, 1,000 orders; three times as many are sent: 6 s of them. Few units an order, so that some order
# takes the last one: only who has none left is told of, and refused at the door.
STOCK = 2_000
MOST = 3
_REFUSED = "SELECT count(*) FROM stock_ledger WHERE product_id = $1 AND outcome = 'FAILED'"
_LEFT = "SELECT qty FROM products WHERE id = $1"


@pytest.mark.scenario("10", "one product, three times its stock wanted; 4 persist_workers, 3 product_consumers")
async def test_p3_everybody_wants_one_product_and_there_is_a_third_of_it(scene: Scene) -> None:
    """P3: sold to the last unit that anybody could have, and no further. P4: whoever gets none hears why."""
    await scene.make_products()
    others = list(scene.products)
    await scene.make_products(1, STOCK)
    hot = some_orders(scene.random("hot"), scene.products[-1:], max_quantity=MOST)
    hot_orders = HotProductOrders(some_orders(scene.random("usual"), others), hot, 3 * STOCK)
    async with scene.more(persist_worker=3, product_consumer=2), scene.under_load(hot_orders.orders()):
        hot_orders.has_begun = True
        await eventually(lambda: hot_orders.left <= 0, 60)
        scene.over()
        await scene.recovers()
    await scene.check(
        Logged("product_consumer", "sold out"),
        Counts("ingest_api", 'headrace_orders_refused_total{reason="out-of-stock"}'),
    )
    async with connected(scene.database_url) as connection:
        assert await connection.fetchval(_LEFT, scene.products[-1]) == 0
        assert await connection.fetchval(_REFUSED, scene.products[-1]) > 0, "nobody was refused by the ledger"


class HotProductOrders:
    """What is wanted: many products; from when it has begun one product, until so many units of it were wanted."""

    def __init__(self, usual: Iterator[WantedOrder], hot: Iterator[WantedOrder], units: int) -> None:
        self._usual, self._hot = usual, hot
        self.left = units
        self.has_begun = False

    def orders(self) -> Iterator[WantedOrder]:
        while True:
            if self.has_begun and self.left > 0:
                wanted = next(self._hot)
                self.left -= wanted.quantity
                yield wanted
            else:
                yield next(self._usual)
