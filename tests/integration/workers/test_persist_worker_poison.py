"""persist_worker and orders that cannot be stored: each costs only itself, and is parked (P10)."""

import asyncio
import secrets
import struct
from decimal import Decimal

import aio_pika
import msgspec
import pamqp.encode
import pytest

from database import connection as database_connection
from persist_worker import forward as forward_module
from pipeline.contract import topology
from pipeline.contract.orders import SCHEMA, SCHEMAS, encode_order, join_orders
from pipeline.contract.reasons import Reason
from tests.support.brokers.broker import plain_channel, unsettled
from tests.support.data.metrics import grown, sample
from tests.support.data.orders import body_of, new_product_id, order
from tests.support.scenes.persisting import accept, accept_raw, forwarded, parked, stored
from tests.support.services.workers import DeadRow, buffered, persist_worker

A = new_product_id()
ACCEPTED, CREATED = topology.ORDERS_ACCEPTED_QUEUE, topology.ORDERS_CREATED_QUEUE


@pytest.fixture(autouse=True)
def _fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_connection, "backoff_s", lambda attempt: 0.01)
    monkeypatch.setattr(forward_module, "backoff_s", lambda attempt: 0.01)


async def test_p10_poison_is_parked_and_the_rest_stored_and_forwarded(environment: dict[str, str]) -> None:
    first, good, refused, unread = order(A), order(A), order(A, 0, total_price=Decimal(0)), order(A)
    stranger = msgspec.structs.replace(first, quantity=2, total_price=Decimal(25))
    noise, unknown = b"\x00 no JSON", body_of(order(A))
    broken = b'{"id":"' + unread.id.encode() + b'"}'
    await accept(environment, [first])
    async with persist_worker(environment) as worker:
        assert await worker.run_once() == 1
        await accept_raw(environment, noise)
        await accept_raw(environment, unknown, schema=SCHEMAS[-1] + 1)
        await accept_raw(environment, join_orders([*map(encode_order, (refused, good, stranger)), broken]))
        await buffered(worker, 3)
        assert await worker.run_once() == 3
    assert (await stored(environment)).keys() == {first.id, good.id}
    assert await forwarded(environment) == [body_of(first), body_of(good)]
    assert await parked(environment) == [
        DeadRow(None, "persist", Reason.UNREADABLE, noise),
        DeadRow(None, "persist", Reason.UNKNOWN_SCHEMA, unknown),
        DeadRow(unread.id, "persist", Reason.UNREADABLE, b"[" + broken + b"]"),
        DeadRow(refused.id, "persist", Reason.INVALID_DATA, body_of(refused)),
        DeadRow(stranger.id, "persist", Reason.ID_CONFLICT, body_of(stranger)),
    ]
    assert await unsettled(environment["AMQP_URL"], ACCEPTED) == 0


async def test_p10_properties_that_nobody_can_read_cost_only_their_message(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time in nanoseconds, as other clients write it. Our client could not decode it, and disconnected each time."""
    bad, good = order(A), order(A)
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_accepted(channel)
        exchange = await channel.get_exchange(topology.ORDERS_EXCHANGE, ensure=False)
        message = aio_pika.Message(body_of(bad), headers={"schema": SCHEMA}, timestamp=1)
        with monkeypatch.context() as patched:
            patched.setitem(pamqp.encode.METHODS, "timestamp", lambda _: struct.pack(">Q", 2**60))
            await exchange.publish(message, topology.ORDER_ACCEPTED)
    await accept(environment, [good])
    losses = sample("headrace_broker_connection_losses_total", connection="consumer")
    async with grown(losses) as growth, persist_worker(environment) as worker, asyncio.timeout(15):
        await buffered(worker, 2)
        assert await worker.run_once() == 1
    assert growth() == [0]
    assert (await stored(environment)).keys() == {good.id}
    assert await parked(environment) == [DeadRow(None, "persist", Reason.UNKNOWN_SCHEMA, body_of(bad))]


async def test_p10_a_client_that_no_index_can_hold_costs_only_itself(environment: dict[str, str]) -> None:
    """PostgreSQL answers "program limit exceeded", which names no row, on every attempt."""
    good, bad = order(A), msgspec.structs.replace(order(A), client=secrets.token_hex(6000))
    await accept(environment, [good, bad])
    async with persist_worker(environment) as worker, asyncio.timeout(10):
        assert await worker.run_once() == 1
    assert (await stored(environment)).keys() == {good.id}
    assert await parked(environment) == [DeadRow(bad.id, "persist", Reason.UNREADABLE, body_of(bad))]
    assert await unsettled(environment["AMQP_URL"], ACCEPTED) == 0


async def test_p10_poison_that_is_delivered_again_is_parked_once_and_never_forwarded(
    environment: dict[str, str],
) -> None:
    good, bad = order(A), order(A, 0, total_price=Decimal(0))
    await accept(environment, [good, bad])
    async with persist_worker(environment) as worker:
        await worker.die_before(worker.consumer, "settle")
    async with persist_worker(environment) as worker:
        await worker.run_once()
    assert await forwarded(environment) == [body_of(good)] * 2
    assert await parked(environment) == [DeadRow(bad.id, "persist", Reason.INVALID_DATA, body_of(bad))]
