"""One order in twenty is cancelled at once after its 202, while product_consumer dies."""

import pytest

from tests.chaos.account.signs import Counts, Logged
from tests.chaos.scene.cancels import Cancels
from tests.chaos.scene.scene import Scene
from tests.support.services.workers import connected

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

SHARE = 0.05


@pytest.mark.scenario("28", "5 % of the orders cancelled at once; product_consumer killed before and after it busts")
async def test_p4_orders_are_cancelled_while_product_consumer_dies(scene: Scene) -> None:
    """P2, P3, P4: each cancelled order has one outcome, and gives back what it took, once."""
    async with scene.under_load() as client:
        cancels = Cancels(scene.deployment, client.attempts, SHARE, scene.random("cancels"))
        async with cancels.running():
            for failpoint in ("stock.after_commit_before_bust", "stock.commit_sent", "stock.after_bust_before_ack"):
                await scene.dies_at("product_consumer", failpoint)
                await scene.recovers()
    await scene.check(
        Logged("product_consumer", "batch with redeliveries"),
        Counts("product_consumer", 'headrace_redeliveries_total{queue="orders.created"}'),
        Counts("product_consumer", "headrace_cancellations_total"),
    )
    async with connected(scene.database_url) as connection:
        assert await cancels.wrong(connection) == []
    assert len(cancels.accepted) > 100
