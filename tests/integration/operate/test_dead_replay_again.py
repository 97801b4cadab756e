"""A letter that fails again after its replay, or while it is replayed, still waits (P4, P10)."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import aio_pika
import pytest

from database.connection import Connection
from pipeline.broker.publisher import Outcome
from pipeline.contract import topology
from pipeline.contract.orders import SCHEMA, Order
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from stack.operate.dead.sql import TakenLetter
from tests.support.brokers.broker import plain_channel
from tests.support.data.orders import body_of, new_product_id, order
from tests.support.scenes.replays import park_orders, replay_all, replayed, run_pipeline, waiting
from tests.support.services.workers import (
    DeadRow,
    add_product,
    assert_conserved,
    connected,
    dead_letters,
    stored_orders,
    verdicts,
)
from tests.support.time.conditions import eventually

A, B = new_product_id(), new_product_id()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        yield it


async def test_p10_what_is_replayed_without_mending_is_parked_again_and_what_is_mended_becomes_an_order(
    environment: dict[str, str], connection: Connection
) -> None:
    await add_product(connection, A, 10)
    await connection.execute("ALTER TABLE orders ADD CONSTRAINT too_strict CHECK (quantity <> 7)")
    good, bad = order(A, 2), order(A, 7)
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_accepted(channel)
        exchange = await channel.get_exchange(topology.ORDERS_EXCHANGE)
        await exchange.publish(
            aio_pika.Message(body_of(good, bad), headers={"schema": SCHEMA}), topology.ORDER_ACCEPTED
        )
    await run_pipeline(environment)
    letter = DeadRow(bad.id, "persist", Reason.INVALID_DATA, body_of(bad))
    assert await dead_letters(connection) == [letter]
    for times in (2, 3):
        assert (await replay_all(environment)).confirmed == {"persist": 1}
        assert await waiting(connection) == []
        await run_pipeline(environment)
        assert await waiting(connection) == [bad.id]
        assert await dead_letters(connection) == [letter] * times
    assert await verdicts(connection) == {good.id: None}

    await connection.execute("ALTER TABLE orders DROP CONSTRAINT too_strict")
    await replay_all(environment)
    await run_pipeline(environment)
    assert await waiting(connection) == []
    assert await stored_orders(connection) == {good.id: (A, 2), bad.id: (A, 7)}
    assert await verdicts(connection) == {good.id: None, bad.id: None}
    await assert_conserved(connection)


@pytest.mark.parametrize("outcome", [Outcome.CONFIRMED, Outcome.UNKNOWN])
async def test_p4_what_fails_again_before_it_is_marked_still_waits_for_a_replay(
    connection: Connection, database_url: str, outcome: Outcome
) -> None:
    """The worker is quicker than the confirm: were its letter taken for the one that is being replayed, the order would
    be nowhere.
    """
    await park_orders(connection, Stage.PERSIST, bad := order(A, 0, total_price=Decimal(0)))
    async with connected(database_url) as of_the_worker:
        parking: list[asyncio.Task[None]] = []

        async def send(letter: TakenLetter) -> Outcome:
            parking.append(asyncio.create_task(park_orders(of_the_worker, Stage.PERSIST, bad)))
            await eventually(lambda: _waits_for_a_lock(database_url, of_the_worker))
            return outcome

        done = await replayed(connection, send)
        assert done.count == 1
        await parking[0]
    assert await waiting(connection) == [bad.id]
    assert len(await dead_letters(connection)) == (2 if outcome is Outcome.CONFIRMED else 1)


async def _waits_for_a_lock(database_url: str, who: Connection) -> bool:
    async with connected(database_url) as connection:
        query = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1"
        return bool(await connection.fetchval(query, who.get_server_pid()))


async def test_what_is_parked_meanwhile_is_left_for_the_next_time(connection: Connection, database_url: str) -> None:
    """Otherwise replaying an unfixed letter would never end."""
    await park_orders(connection, Stage.PERSIST, order(A), order(A))
    new: list[Order] = []

    async with connected(database_url) as of_the_worker:

        async def send(_: TakenLetter) -> Outcome:
            new.append(order(A))
            await park_orders(of_the_worker, Stage.PERSIST, new[-1])
            return Outcome.CONFIRMED

        done = await replayed(connection, send, rate=4)
    assert done.confirmed == {"persist": 2}
    assert await waiting(connection) == [it.id for it in new]
