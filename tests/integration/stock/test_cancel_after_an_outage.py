"""Orders and cancellations that pile up while product_consumer is away: each order has one winner."""

import pytest

from database.connection import Connection
from persist_worker.write import prepare, write
from pipeline.contract import topology
from pipeline.contract.orders import AnyOrder, lines_of
from tests.support.brokers.broker import plain_channel, send_orders
from tests.support.data.orders import basket, new_product_id, order
from tests.support.scenes.audited import audited
from tests.support.scenes.cancelling import by, outcomes, request_cancel, verdict_of
from tests.support.services.processes import service_process
from tests.support.services.workers import add_product, qty_of
from tests.support.time.conditions import eventually

A, B, SOLD_OUT = (new_product_id() for _ in range(3))
COUNT = 120
_SETTLED = """
    SELECT (SELECT count(*) FROM stock_ledger), (SELECT count(*) FROM cancellations WHERE outcome IS NOT NULL)
"""


@pytest.fixture
async def piled_up(environment: dict[str, str], connection: Connection) -> list[AnyOrder]:
    """Stored orders, sent on in messages of ten; every third is of a sold-out product."""
    await prepare(connection)
    for product_id, qty in ((A, 1_000), (B, 1_000), (SOLD_OUT, 0)):
        await add_product(connection, product_id, qty)
    goods = (lambda: order(A, 2, client="shop"), lambda: basket((B, 1), (A, 1), client="shop"))
    them = [goods[at % 2]() if at % 3 else order(SOLD_OUT, client="shop") for at in range(COUNT)]
    await write(connection, them, [])
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_created(channel)
        for at in range(0, COUNT, 10):
            await send_orders(channel, topology.ORDERS_EXCHANGE, topology.ORDER_CREATED, *them[at : at + 10])
    return them


@pytest.mark.parametrize("consumers", [1, 2])
async def test_p3_p4_all_that_was_asked_meanwhile_is_settled_once(
    environment: dict[str, str], connection: Connection, piled_up: list[AnyOrder], consumers: int
) -> None:
    cancelled, kept = piled_up[::2], piled_up[1::2]
    for _ in range(2):  # a client that hears nothing asks again
        await request_cancel(environment, *([by("shop", it)] for it in cancelled))
        await request_cancel(environment, [by("ops", it, sees_all=True) for it in reversed(cancelled)])
    await request_cancel(environment, [by("rival", it) for it in piled_up])
    asked = 2 * len(cancelled) + COUNT
    async with service_process("product_consumer", environment):
        if consumers == 1:
            await eventually(lambda: _is_settled(connection, asked), 30)
        else:
            async with service_process("product_consumer", environment):
                await eventually(lambda: _is_settled(connection, asked), 30)
    for it in cancelled:
        found = [str(outcome) for outcome in await outcomes(connection, it)]
        is_failed = await verdict_of(connection, it) == "FAILED"
        assert found.count("not_yours") == 1
        assert found.count("too_late") == 1 + is_failed
        assert found.count("before_verdict") + found.count("returned") == 1 - is_failed
    assert {tuple(await outcomes(connection, it)) for it in kept} == {("not_yours",)}
    units = {A: 0, B: 0}
    for it in kept:
        for line in lines_of(it):
            if line.product_id in units:
                units[line.product_id] += line.quantity
    assert {it: 1_000 - await qty_of(connection, it) for it in units} == units
    assert (await audited(connection, lag_s=-1))[0] == []


async def _is_settled(connection: Connection, cancellations: int) -> bool:
    found = await connection.fetchrow(_SETTLED)
    return found is not None and tuple(found) == (COUNT, cancellations)
