"""Orders and cancellations in any order, repeated, interrupted and at once, against the promises P2, P3, P4 and P11."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeAlias

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from database import event_log
from database.connection import Connection
from persist_worker.write import prepare, write
from pipeline.contract.orders import AnyOrder, lines_of
from product_consumer.cancel import cancel
from product_consumer.ledger import record
from tests.support.data.orders import basket, new_product_id, order
from tests.support.scenes.audited import audited
from tests.support.scenes.cancelling import by, outcomes, returns_of, verdict_of
from tests.support.services.workers import add_product, connected, qty_of

QTY = 5
_MOST = 4
Step: TypeAlias = tuple[str, int, str]

# Of four orders, two of them baskets, for five units of each product, so that some fail.
# `dies` is a crash before the commit of each transaction.
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["store", "decide", "cancel", "cancel dies", "decide dies", "both"]),
        st.integers(0, _MOST - 1),
        st.sampled_from(["shop", "rival", "ops"]),
    ),
    max_size=14,
)


class Crash(Exception):
    """The process dies before its commit."""


class World:
    """Two consumers on one database, and what was asked of them."""

    def __init__(self, first: Connection, second: Connection, a: str, b: str) -> None:
        self.first, self.second, self.products = first, second, (a, b)
        self.orders: list[AnyOrder] = [
            order(a, 2, client="shop", at_ms=2),
            basket((a, 1), (b, 3), client="shop", at_ms=1),
            order(a, 3, client="shop", at_ms=3),
            basket((b, 2), (a, 2), client="shop", at_ms=2),
        ]
        self.stored: set[str] = set()
        self.asked: dict[str, set[str]] = {it.id: set() for it in self.orders}

    async def step(self, kind: str, at: int, who: str) -> None:
        it = self.orders[at]
        if kind == "store":
            await self.store(it)
        elif kind == "cancel dies":
            await self._die(self._cancel(self.first, it, who))
        elif kind == "cancel":
            await self._cancel(self.first, it, who)
        elif it.id in self.stored:  # only stored orders are sent on
            if kind == "both":
                await asyncio.gather(self._cancel(self.first, it, who), self.decide(self.second, *self.orders))
            elif kind == "decide":
                await self.decide(self.first, it)
            else:
                await self._die(self.decide(self.first, it))

    async def store(self, it: AnyOrder) -> None:
        await write(self.first, [it], [])
        self.stored.add(it.id)

    async def decide(self, connection: Connection, *orders: AnyOrder) -> None:
        await record(connection, [it for it in orders if it.id in self.stored], [])

    async def _cancel(self, connection: Connection, it: AnyOrder, who: str) -> None:
        self.asked[it.id].add(who)
        await cancel(connection, [by(who, it, sees_all=who == "ops")], [])

    async def _die(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            async with self.first.transaction():
                await work
                raise Crash
        except Crash:
            pass

    async def drain(self) -> None:
        """Deliver all that a crash left undelivered. A cancellation that waits for its order does not come again."""
        await self.cancel_again(self.second)
        for it in self.orders:
            await self.store(it)
        await self.decide(self.second, *self.orders)

    async def cancel_again(self, connection: Connection) -> None:
        for it in self.orders:
            for who in sorted(self.asked[it.id]):
                await self._cancel(connection, it, who)


async def check(world: World) -> None:
    left = dict.fromkeys(world.products, QTY)
    for it in world.orders:
        verdict, settled = await verdict_of(world.first, it), Counter(await outcomes(world.first, it))
        status = await _status(world.first, it)
        assert verdict in ("PROCESSED", "FAILED", "CANCELLED")
        assert settled.total() == len(world.asked[it.id])
        assert settled[None] == 0
        assert settled["not_yours"] == ("rival" in world.asked[it.id])
        assert settled["before_verdict"] + settled["returned"] == (status == "CANCELLED")
        assert (status == "CANCELLED") == (bool(world.asked[it.id] - {"rival"}) and verdict != "FAILED")
        lines = [(line.product_id, line.quantity) for line in lines_of(it)]
        assert sorted(await returns_of(world.first, it)) == sorted(lines * settled["returned"])
        for product_id, quantity in lines:
            left[product_id] -= quantity * (status == "PROCESSED")
    assert {it: await qty_of(world.first, it) for it in world.products} == left
    assert (await audited(world.first, lag_s=-1))[0] == []
    await _check_events(world)


async def _check_events(world: World) -> None:
    end = await event_log.number(world.first)
    events = await event_log.read(world.first, end.log_id, 0, end.last_offset)
    for it in world.orders:
        mine = [one.event for one in events if one.event.order.id == it.id]
        assert [one.sequence for one in mine] == list(range(1, len(mine) + 1))
        assert mine[-1].order.status == await _status(world.first, it)


async def _status(connection: Connection, it: AnyOrder) -> str:
    query = """
        SELECT CASE WHEN EXISTS (
            SELECT FROM cancellations WHERE order_id = $1 AND outcome IN ('before_verdict', 'returned')
        ) THEN 'CANCELLED' ELSE (SELECT outcome FROM stock_ledger WHERE order_id = $1) END
    """
    return str(await connection.fetchval(query, it.id))


async def run(database_url: str, steps: list[Step]) -> None:
    async with connected(database_url) as first, connected(database_url) as second:
        for connection in (first, second):
            await prepare(connection)
        products = new_product_id(), new_product_id()
        for product_id in products:
            await add_product(first, product_id, QTY)
        world = World(first, second, *products)
        for step in steps:
            await world.step(*step)
        await world.drain()
        await check(world)
        await world.cancel_again(first)
        await check(world)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
def test_p2_p3_p4_whatever_comes_first_again_or_at_once_one_wins_and_the_books_are_right(
    database_url: str, steps: list[Step]
) -> None:
    asyncio.run(run(database_url, steps))
