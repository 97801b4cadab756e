"""persist_worker on real services, one batch at a time: write, forward, ack, and a death at each point in between."""

import asyncio
import secrets
import struct
from decimal import Decimal

import aio_pika
import msgspec
import pamqp.encode
import pytest
from aio_pika.abc import AbstractChannel

from database import connection as database_connection
from persist_worker import forward as forward_module
from pipeline.broker import batches
from pipeline.contract import topology
from pipeline.contract.orders import SCHEMA, Order, encode_order, join_orders
from pipeline.contract.reasons import Reason
from pipeline.process.lifecycle import Abandoned
from tests.conftest import Servers
from tests.support.brokers.broker import Management, plain_channel, send, send_orders, take, unsettled
from tests.support.data.metrics import grown, sample
from tests.support.data.orders import body_of, new_product_id, order
from tests.support.faults.faults import proxy_to
from tests.support.services.workers import (
    DeadRow,
    Worker,
    connected,
    dead_letters,
    locked,
    persist_worker,
    stored_orders,
    wait_20_ms_for_locks,
)
from tests.support.time.conditions import eventually

A = new_product_id()
ACCEPTED, CREATED = topology.ORDERS_ACCEPTED_QUEUE, topology.ORDERS_CREATED_QUEUE


@pytest.fixture(autouse=True)
def _fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_connection, "backoff_s", lambda attempt: 0.01)
    monkeypatch.setattr(forward_module, "backoff_s", lambda attempt: 0.01)


async def accept(environment: dict[str, str], *messages: list[Order]) -> None:
    """Each list as one message, as ingest_api publishes it."""
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_accepted(channel)
        for orders in messages:
            await send_orders(channel, topology.ORDERS_EXCHANGE, topology.ORDER_ACCEPTED, *orders)


async def accept_raw(environment: dict[str, str], body: bytes, **headers: object) -> None:
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_accepted(channel)
        await send(channel, topology.ORDERS_EXCHANGE, topology.ORDER_ACCEPTED, body, headers={"schema": 1, **headers})


async def forwarded(environment: dict[str, str]) -> list[bytes]:
    """The bodies that wait for product_consumer; they are taken away."""
    async with plain_channel(environment["AMQP_URL"]) as channel:
        return [await take(channel, CREATED) for _ in range(await unsettled(environment["AMQP_URL"], CREATED))]


async def stored(environment: dict[str, str]) -> dict[str, tuple[str, int]]:
    async with connected(environment["DATABASE_URL"]) as connection:
        return await stored_orders(connection)


async def parked(environment: dict[str, str]) -> list[DeadRow]:
    async with connected(environment["DATABASE_URL"]) as connection:
        return await dead_letters(connection)


async def buffered(worker: Worker, count: int) -> None:
    """Wait until that many messages have come."""
    await eventually(lambda: len(worker.consumer._buffer) == count)


async def test_a_batch_is_stored_forwarded_byte_by_byte_and_acknowledged(environment: dict[str, str]) -> None:
    first = [order(A, 2, price="1500.00", request_hash="00ff"), order(A, traceparent="00-ab-cd-01")]
    second = [order(A)]
    await accept(environment, first, second)
    async with persist_worker(environment) as worker:
        await buffered(worker, 2)
        assert await worker.run_once() == 3
    assert await stored(environment) == {it.id: (A, it.quantity) for it in (*first, *second)}
    assert await forwarded(environment) == [body_of(*first, *second)]
    assert await unsettled(environment["AMQP_URL"], ACCEPTED) == 0


async def test_what_is_forwarded_says_how_many_orders_it_is(environment: dict[str, str]) -> None:
    """By this the next worker bounds its batches without decoding."""
    await accept(environment, [order(A) for _ in range(7)])
    async with persist_worker(environment) as worker:
        await worker.run_once()
    async with plain_channel(environment["AMQP_URL"]) as channel:
        message = await (await channel.get_queue(CREATED, ensure=False)).get()
        assert message is not None
        assert message.headers.items() >= {"schema": SCHEMA, "orders": 7}.items()
        assert message.delivery_mode == 2


async def test_a_message_without_orders_is_acknowledged_and_nothing_forwarded(environment: dict[str, str]) -> None:
    await accept_raw(environment, b"[]")
    async with persist_worker(environment) as worker:
        assert await worker.run_once() == 0
    assert await unsettled(environment["AMQP_URL"], ACCEPTED) == 0
    assert await forwarded(environment) == []


async def test_p9_a_worker_that_is_told_to_stop_finishes_what_it_has(environment: dict[str, str]) -> None:
    await accept(environment, [order(A)], [order(A)], [order(A)])
    async with persist_worker(environment, batch_max_deliveries=2) as worker:
        await buffered(worker, 3)
        await worker.consumer.stop()
        assert [await worker.run_once() for _ in range(3)] == [2, 1, None]
    assert len(await stored(environment)) == 3
    assert await unsettled(environment["AMQP_URL"], ACCEPTED) == 0


# ── a death at each point


@pytest.mark.parametrize("point", ["commit", "forward", "ack"])
async def test_p1_p2_a_death_before_each_step_costs_no_order_and_doubles_none(
    environment: dict[str, str], point: str
) -> None:
    orders = [order(A) for _ in range(5)]
    await accept(environment, orders)
    async with persist_worker(environment) as worker:
        owner, method = {
            "commit": (worker.database, "until_it_works"),
            "forward": (worker.publisher, "publish"),
            "ack": (worker.consumer, "settle"),
        }[point]
        await worker.die_before(owner, method)
    assert await unsettled(environment["AMQP_URL"], ACCEPTED) == 1
    assert len(await stored(environment)) == (0 if point == "commit" else 5)
    async with persist_worker(environment) as worker:
        assert await worker.run_once() == 5
    assert await stored(environment) == {it.id: (A, 1) for it in orders}
    assert await forwarded(environment) == [body_of(*orders)] * (2 if point == "ack" else 1)
    assert await unsettled(environment["AMQP_URL"], ACCEPTED) == 0


async def test_p2_a_batch_that_outlives_its_channel_comes_again_and_is_stored_once(
    environment: dict[str, str],
) -> None:
    orders = [order(A) for _ in range(5)]
    await accept(environment, orders)
    async with proxy_to(environment["AMQP_URL"]) as proxy:
        far = {**environment, "AMQP_URL": proxy.url(environment["AMQP_URL"])}
        async with persist_worker(far) as worker:
            async with locked(environment["DATABASE_URL"], "orders"):
                batch = asyncio.create_task(worker.run_once())
                await eventually(lambda: worker.consumer._buffered_orders == 0 and not batch.done())
                await buffered(worker, 0)
                proxy.cut()
                await eventually(lambda: "consumes nothing before" in str(worker.database._health.summary()))
                await eventually(lambda: worker.publisher.is_open)
            assert await batch == 5
            assert await worker.run_once() == 5
    assert await stored(environment) == {it.id: (A, 1) for it in orders}
    assert await forwarded(environment) == [body_of(*orders)] * 2
    assert await unsettled(environment["AMQP_URL"], ACCEPTED) == 0


# ── P10: poison


async def test_p10_poison_is_parked_and_the_rest_stored_and_forwarded(environment: dict[str, str]) -> None:
    first, good, refused, unread = order(A), order(A), order(A, 0, total_price=Decimal(0)), order(A)
    stranger = msgspec.structs.replace(first, quantity=2, total_price=Decimal(25))
    noise, unknown = b"\x00 no JSON", body_of(order(A))
    broken = b'{"id":"' + unread.id.encode() + b'"}'
    await accept(environment, [first])
    async with persist_worker(environment) as worker:
        assert await worker.run_once() == 1
        await accept_raw(environment, noise)
        await accept_raw(environment, unknown, schema=SCHEMA + 1)
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
    """A time in nanoseconds, as other clients write it. Ours could not decode it, and hung up each time it came."""
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
    """PostgreSQL says "program limit exceeded", which blames no row, and says it again for ever."""
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


async def test_the_metrics_tell_what_became_of_a_batch(environment: dict[str, str]) -> None:
    samples = [
        sample("headrace_orders_stored_total"),
        sample("headrace_accept_to_stored_seconds_count"),
        sample("headrace_orders_duplicate_total", stage="persist"),
        sample("headrace_orders_parked_total", stage="persist", reason=Reason.INVALID_DATA),
        sample("headrace_copy_path_total", path="direct"),
        sample("headrace_copy_path_total", path="staging"),
        sample("headrace_copy_path_total", path="bisect"),
        sample("headrace_batch_seconds_count", queue=ACCEPTED),
    ]
    orders, twice, poisoned = [order(A) for _ in range(3)], order(A), [order(A), order(A, 0, total_price=Decimal(0))]
    async with grown(*samples) as growth, persist_worker(environment) as worker:
        for batch in (orders, [*orders, twice], [twice, twice], poisoned, poisoned):
            await accept(environment, batch)
            await worker.run_once()
    assert growth() == [5, 5, 6, 1, 1, 2, 2, 5]


async def test_the_metrics_tell_how_much_waits_and_how_much_is_dead(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_DEPTH_INTERVAL_S", 0.01)
    depths = [sample("headrace_queue_depth_messages", queue=it) for it in (ACCEPTED, topology.ORDERS_DEAD_QUEUE)]
    await accept(environment, *([order(A)] for _ in range(7)))
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await send(channel, topology.DEAD_EXCHANGE, topology.ORDER_ACCEPTED, b"[]", b"[]")
    async with persist_worker(environment, prefetch=4, batch_max_deliveries=2):
        await eventually(lambda: [read() for read in depths] == [3, 2])


# ── passing faults hold the batch, and nothing is acknowledged meanwhile


async def test_p1_a_batch_that_is_held_is_not_acknowledged(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And comes again if the worker dies while it holds it."""
    await accept(environment, [order(A)])
    wait_20_ms_for_locks(monkeypatch)
    async with persist_worker(environment) as worker, locked(environment["DATABASE_URL"], "orders"):
        batch = asyncio.create_task(worker.run_once())
        await eventually(lambda: "55P03" in str(worker.database._health.summary()))
        assert not worker.database._health.is_ready
        batch.cancel()
        await asyncio.wait({batch})
    assert await unsettled(environment["AMQP_URL"], ACCEPTED) == 1
    assert await forwarded(environment) == []
    async with persist_worker(environment) as worker:
        assert await worker.run_once() == 1
    assert len(await stored(environment)) == 1


async def nothing(_: AbstractChannel) -> None:
    """Declare nothing."""


async def test_p1_a_forward_that_nobody_takes_holds_the_batch(
    environment: dict[str, str], servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is gone, and cannot be declared again: stored orders that nobody would ever decide."""
    it = order(A)
    await accept(environment, [it])
    async with persist_worker(environment) as worker, Management(servers.rabbitmq_api, environment["AMQP_URL"]) as api:
        monkeypatch.setattr(worker.publisher, "_declare", nothing)
        await api.delete_queue(CREATED)
        retries = sample("headrace_batch_retries_total", queue=ACCEPTED, reason="unroutable")
        publishes = 0
        publish = worker.publisher.publish

        async def counted(*args: object, **kwargs: object) -> object:
            nonlocal publishes
            publishes += 1
            return await publish(*args, **kwargs)  # type: ignore[arg-type]

        worker.publisher.publish = counted  # type: ignore[method-assign, assignment]
        batch = asyncio.create_task(worker.run_once())
        await eventually(lambda: publishes >= 3)
        assert not batch.done()
        assert not worker.database._health.is_ready
        assert "order.created not confirmed: unroutable" in str(worker.database._health.summary())
        assert retries() >= 2
        async with plain_channel(environment["AMQP_URL"]) as channel:
            await topology.declare_created(channel)
        assert await batch == 1
        assert worker.database._health.is_ready
    assert await forwarded(environment) == [body_of(it)]
    assert await unsettled(environment["AMQP_URL"], ACCEPTED) == 0


async def test_p1_a_forward_whose_queue_was_deleted_declares_it_again(
    environment: dict[str, str], servers: Servers
) -> None:
    it = order(A)
    await accept(environment, [it])
    async with persist_worker(environment) as worker, Management(servers.rabbitmq_api, environment["AMQP_URL"]) as api:
        await api.delete_queue(CREATED)
        assert await worker.run_once() == 1
        assert worker.database._health.is_ready
    assert await forwarded(environment) == [body_of(it)]


async def test_p9_stored_orders_that_cannot_be_forwarded_are_left_to_the_broker_as_soon_as_the_worker_is_to_stop(
    environment: dict[str, str], servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = order(A)
    await accept(environment, [it])
    monkeypatch.setattr(forward_module, "backoff_s", lambda attempt: 3600.0)
    async with persist_worker(environment) as worker, Management(servers.rabbitmq_api, environment["AMQP_URL"]) as api:
        monkeypatch.setattr(worker.publisher, "_declare", nothing)
        await api.delete_queue(CREATED)
        batch = asyncio.create_task(worker.run_once())
        await eventually(lambda: "not confirmed: unroutable" in str(worker.database._health.summary()))
        worker.stop.set()
        with pytest.raises(Abandoned):
            async with asyncio.timeout(5):
                await batch
    async with persist_worker(environment) as worker:
        assert await worker.run_once() == 1
    assert await stored(environment) == {it.id: (A, 1)}
    assert await forwarded(environment) == [body_of(it)]


async def test_p1_a_killed_backend_delays_a_batch_and_that_is_all(environment: dict[str, str]) -> None:
    orders = [order(A) for _ in range(5)]
    await accept(environment, orders)
    async with persist_worker(environment) as worker, connected(environment["DATABASE_URL"]) as connection:
        async with locked(environment["DATABASE_URL"], "orders"):
            batch = asyncio.create_task(worker.run_once())
            for _ in range(3):
                await eventually(
                    lambda: connection.fetch(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE application_name = 'persist_worker' AND wait_event_type = 'Lock'"
                    )
                )
        assert await batch == 5
    assert await stored(environment) == {it.id: (A, 1) for it in orders}
    assert await forwarded(environment) == [body_of(*orders)]
