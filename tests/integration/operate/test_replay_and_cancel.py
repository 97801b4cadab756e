"""Orders whose dead letters are replayed while they are cancelled: each is CANCELLED once, and no stock is missing."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from database.connection import Connection
from persist_worker.write import prepare, write
from pipeline.contract.orders import AnyOrder
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from tests.support.data.orders import basket, new_product_id, order
from tests.support.scenes.audited import audited
from tests.support.scenes.cancelling import by, cancellation, outcomes, request_cancel
from tests.support.scenes.replays import park_orders, replay_all, waiting
from tests.support.services.processes import service_process
from tests.support.services.workers import add_product, connected, qty_of
from tests.support.time.conditions import eventually

A, B = (new_product_id() for _ in range(2))
COUNT = 40
_SETTLED = """
    SELECT (SELECT count(*) FROM orders JOIN stock_ledger ON order_id = id WHERE line = 0),
        (SELECT count(*) FROM cancellations WHERE outcome IS NOT NULL)
"""
_CANCELLED = "SELECT count(*) FROM cancellations WHERE outcome IN ('before_verdict', 'returned')"


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        await prepare(it)
        for product_id in (A, B):
            await add_product(it, product_id, 1_000)
        yield it


@pytest.fixture
async def parked(connection: Connection) -> list[AnyOrder]:
    """Orders and baskets, half of them parked by each worker."""
    them: list[AnyOrder] = [
        order(A, 3, client="shop") if at % 3 else basket((B, 2), (A, 1), client="shop") for at in range(COUNT)
    ]
    await write(connection, them[::2], [])
    await park_orders(connection, Stage.STOCK, *them[::2], reason=Reason.DELIVERY_LIMIT)
    await park_orders(connection, Stage.PERSIST, *them[1::2])
    return them


async def is_settled(connection: Connection, cancellations: int) -> bool:
    found = await connection.fetchrow(_SETTLED)
    return found is not None and tuple(found) == (COUNT, cancellations)


async def test_p4_a_replay_and_a_cancellation_of_the_same_order_at_once_have_one_winner(
    environment: dict[str, str], connection: Connection, parked: list[AnyOrder]
) -> None:
    """Two replays and two who cancel, while two of each worker run."""
    async with (
        service_process("persist_worker", environment),
        service_process("product_consumer", environment),
        service_process("product_consumer", environment),
    ):
        await asyncio.gather(
            replay_all(environment),
            request_cancel(environment, *([by("shop", it)] for it in parked)),
            request_cancel(environment, [cancellation(it, "ops") for it in reversed(parked)]),
            replay_all(environment),
        )
        await eventually(lambda: is_settled(connection, 2 * COUNT), 30)
    for it in parked:
        found = await outcomes(connection, it)
        assert sorted(map(str, found)) in (["before_verdict", "too_late"], ["returned", "too_late"])
    assert (await qty_of(connection, A), await qty_of(connection, B)) == (1_000, 1_000)
    assert await waiting(connection) == []
    assert (await audited(connection, lag_s=-1))[0] == []


async def test_p4_a_replay_after_the_cancellation_changes_nothing_but_the_letter(
    environment: dict[str, str], connection: Connection, parked: list[AnyOrder]
) -> None:
    """Until then a stored order is CANCELLED although its letter waits, and nothing is wrong with that."""
    stored = parked[::2]
    async with service_process("persist_worker", environment), service_process("product_consumer", environment):
        await request_cancel(environment, [by("shop", it) for it in parked])
        await eventually(lambda: _are_cancelled(connection, len(stored)), 30)
        assert await waiting(connection) == [it.id for it in (*stored, *parked[1::2])]
        assert (await audited(connection, lag_s=-1))[0] == []
        await replay_all(environment)
        await eventually(lambda: is_settled(connection, COUNT), 30)
    assert {tuple(await outcomes(connection, it)) for it in parked} == {("before_verdict",)}
    assert (await qty_of(connection, A), await qty_of(connection, B)) == (1_000, 1_000)
    assert (await audited(connection, lag_s=-1))[0] == []


async def _are_cancelled(connection: Connection, count: int) -> bool:
    return bool(await connection.fetchval(_CANCELLED) == count)
