"""Orders that are none, in all the ways there are, among those that are."""

from collections.abc import Iterable
from decimal import Decimal

import pytest
from aio_pika.abc import AbstractChannel

from pipeline.contract import topology
from pipeline.contract.orders import SCHEMA, SCHEMAS, Order
from tests.chaos.account.signs import Counts, Logged
from tests.chaos.scene.attempts import PRICE
from tests.chaos.scene.dead_letters import remove_cause, replay_twice, unwanted, unwanted_orders, waiting
from tests.chaos.scene.scene import Scene
from tests.support.brokers.broker import plain_channel, send
from tests.support.data.orders import body_of, order
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

__all__ = ["unwanted"]
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

# Past numeric(20,2).
_TOO_MUCH = Decimal("1e19")
_REASONS = "SELECT reason, count(*) FROM dead_letters WHERE replayed_at IS NULL GROUP BY 1"
_SENT = "SELECT count(*) FROM dead_letters WHERE order_id = ANY($1::uuid[]) AND replayed_at IS NULL"


@pytest.mark.deep
@pytest.mark.scenario("11", "poison: NUL, overflow, cut short, unknown schema, one in a thousand; replayed twice")
async def test_p10_poison_costs_only_itself_and_what_is_mended_is_one_order_each(unwanted: None, scene: Scene) -> None:
    """P10: neighbours are stored and decided. P2: however often what was fixed is replayed."""
    async with scene.under_load():
        poison = await publish_poison(scene)
        await eventually(lambda: are_parked(scene, poison), 30)
        await eventually(lambda: has_waiting(scene, len(poison) + 5), 60)
        await remove_cause(scene)
        await replay_twice(scene)
        await eventually(lambda: unwanted_orders(scene), 30)
        scene.over()
        await scene.recovers()
    await scene.check(
        Logged("persist_worker", "order parked"),
        *(
            Counts("persist_worker", f'headrace_orders_parked_total{{reason="{reason}",stage="persist"}}')
            for reason in ("invalid_data", "unreadable", "unknown_schema")
        ),
    )
    async with connected(scene.database_url) as connection:
        reasons = {row[0]: row[1] for row in await connection.fetch(_REASONS)}
    assert reasons == {"invalid_data": 3, "unreadable": 1, "unknown_schema": 1}, "fixed, and not replayed"


async def publish_poison(scene: Scene) -> list[str]:
    """As no ingest_api would. Returns the ids of the poison that has one."""
    nul = order(scene.products[0], price=PRICE, client="no\0body")
    overflow, in_a_thousand = (order(scene.products[0], total_price=_TOO_MUCH) for _ in range(2))
    cut_short, unknown = body_of(*good(scene, 3))[:-10], body_of(*good(scene, 3))
    neighbours = [good(scene, 10), good(scene, 10), good(scene, 999)]
    for it in (it for some in neighbours for it in some):
        scene.was_accepted(it)
    async with plain_channel(scene.amqp_url) as channel:
        for some, bad in zip(neighbours, (nul, overflow, in_a_thousand), strict=True):
            middle = len(some) // 2
            await publish(channel, body_of(*some[:middle], bad, *some[middle:]), orders=len(some) + 1)
        await publish(channel, cut_short)
        await publish(channel, unknown, schema=SCHEMAS[-1] + 1)
    return [nul.id, overflow.id, in_a_thousand.id]


def good(scene: Scene, count: int) -> list[Order]:
    return [order(scene.rng.choice(scene.products), scene.rng.randint(1, 500), price=PRICE) for _ in range(count)]


async def publish(channel: AbstractChannel, body: bytes, **headers: int) -> None:
    await send(
        channel,
        topology.ORDERS_EXCHANGE,
        topology.ORDER_ACCEPTED,
        body,
        headers={"schema": SCHEMA, **headers},
    )


async def are_parked(scene: Scene, order_ids: Iterable[str]) -> bool:
    ids = list(order_ids)
    async with connected(scene.database_url) as connection:
        return bool(await connection.fetchval(_SENT, ids) == len(ids))


async def has_waiting(scene: Scene, count: int) -> bool:
    return await waiting(scene) >= count
