"""Messages that a real broker dead-letters become rows of dead_letters."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from database import connection as database_connection
from database.connection import Connection
from persist_worker import dead_letter_consumer as module
from persist_worker.dead_letter_consumer import PART
from persist_worker.worker import PUBLISHER
from pipeline.broker import batches
from pipeline.contract import topology
from pipeline.contract.orders import SCHEMA, Order
from pipeline.contract.reasons import Reason
from pipeline.process import lifecycle
from pipeline.process.health import Health
from tests.support.brokers.broker import plain_channel, running_task, send, send_orders, unsettled
from tests.support.brokers.dead_letters import dead_letter_consumer, make_dead_letter_consumer, reject, return_too_often
from tests.support.data.metrics import grown, sample
from tests.support.data.orders import body_of, new_product_id, order
from tests.support.services.processes import service_process
from tests.support.services.workers import (
    DeadRow,
    add_product,
    connected,
    dead_letters,
    locked,
    persist_worker,
    product_consumer,
    wait_20_ms_for_locks,
)
from tests.support.time.conditions import eventually

A = new_product_id()
ACCEPTED, CREATED, DEAD = topology.ORDERS_ACCEPTED_QUEUE, topology.ORDERS_CREATED_QUEUE, topology.ORDERS_DEAD_QUEUE


@pytest.fixture(autouse=True)
def _fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_connection, "backoff_s", lambda attempt: 0.01)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        yield it


async def publish(environment: dict[str, str], key: str, *orders: Order) -> None:
    """Publish all orders as one message."""
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_accepted(channel)
        await topology.declare_created(channel)
        await send_orders(channel, topology.ORDERS_EXCHANGE, key, *orders)


async def give_up(environment: dict[str, str], *orders: Order, queue: str = ACCEPTED) -> None:
    """Publish these orders, and make the broker move them to orders.dead."""
    await publish(environment, topology.ORDER_ACCEPTED if queue == ACCEPTED else topology.ORDER_CREATED, *orders)
    await reject(environment["AMQP_URL"], queue)


async def store(environment: dict[str, str], *orders: Order) -> None:
    """Run the orders through persist_worker, so that they are in orders.created as one message."""
    await publish(environment, topology.ORDER_ACCEPTED, *orders)
    async with persist_worker(environment) as worker:
        await worker.run_once()


async def decide(environment: dict[str, str]) -> None:
    async with product_consumer(environment) as worker:
        await worker.run_once()


async def park_all(environment: dict[str, str], letters: int) -> None:
    """Consume orders.dead until `letters` new letters are parked. Then the queue is empty."""
    async with dead_letter_consumer(environment) as consumer:
        while letters > 0:
            letters -= await consumer.run_once() or 0
    assert letters == 0
    assert await unsettled(environment["AMQP_URL"], DEAD) == 0


async def is_dead_lettered(environment: dict[str, str]) -> bool:
    return await unsettled(environment["AMQP_URL"], DEAD) == 1


def parked(stage: str, *orders: Order, reason: str = "rejected") -> list[DeadRow]:
    return [DeadRow(it.id, stage, reason, body_of(it)) for it in orders]


async def test_p4_a_message_that_comes_back_too_often_is_a_dead_letter_for_each_of_its_orders(
    environment: dict[str, str], connection: Connection
) -> None:
    """In a real persist_worker process, of which the consumer is a part."""
    orders = [order(A), order(A, 2)]
    await publish(environment, topology.ORDER_ACCEPTED, *orders)
    assert await return_too_often(environment["AMQP_URL"], ACCEPTED) == 101
    async with service_process("persist_worker", environment) as service:
        await eventually(lambda: dead_letters(connection))
        assert await dead_letters(connection) == parked("persist", *orders, reason="delivery_limit")
        async with httpx.AsyncClient(base_url=service.url) as client:
            assert (await client.get("/health")).json()["parts"][PART] == "ok"
        assert await service.stop() == 0
    (detail,) = await connection.fetchrow("SELECT DISTINCT detail FROM dead_letters") or [""]
    assert detail.startswith("the broker gave it up in 'orders.accepted': delivery_limit, 1 time(s), first at 20")
    assert await unsettled(environment["AMQP_URL"], DEAD) == 0


async def test_p4_what_was_stored_and_given_up_by_the_second_worker_is_parked_for_the_stock_stage(
    environment: dict[str, str], connection: Connection
) -> None:
    orders = [order(A), order(A)]
    await store(environment, *orders)
    await reject(environment["AMQP_URL"], CREATED)
    await park_all(environment, 2)
    assert await dead_letters(connection) == parked("stock", *orders)


async def test_p4_what_was_stored_and_given_up_by_the_first_worker_is_passed_on_to_the_second(
    environment: dict[str, str], connection: Connection
) -> None:
    """A copy of the order may be on its way. An order that was FAILED must not become PROCESSED."""
    await add_product(connection, A, 5)
    stored, unstored = order(A), order(A)
    await store(environment, stored)
    async with plain_channel(environment["AMQP_URL"]) as channel:  # and the worker died before it forwarded the order
        await (await channel.get_queue(CREATED)).purge()
    await give_up(environment, stored, unstored)
    await park_all(environment, 1)
    assert await dead_letters(connection) == parked("persist", unstored)
    await decide(environment)
    assert await connection.fetchval("SELECT outcome FROM stock_ledger WHERE order_id = $1", stored.id) == "PROCESSED"


async def test_p4_who_was_told_that_it_failed_is_not_passed_on_after_all(
    environment: dict[str, str], connection: Connection
) -> None:
    it = order(A)
    await store(environment, it)
    await reject(environment["AMQP_URL"], CREATED)
    await park_all(environment, 1)
    await give_up(environment, it)
    async with dead_letter_consumer(environment) as consumer:
        assert await consumer.run_once() == 0
    assert await dead_letters(connection) == parked("stock", it)
    assert await unsettled(environment["AMQP_URL"], CREATED) == 0


async def test_p4_the_way_into_the_net_is_made_again_by_the_net(
    environment: dict[str, str], connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No consumer or publisher hears that the binding was removed; only the broker meets the missing binding."""
    monkeypatch.setattr(batches, "_DEPTH_INTERVAL_S", 0.05)
    await give_up(environment, it := order(A))
    consumer, _ = make_dead_letter_consumer(environment, Health("persist_worker", PART, PUBLISHER))
    async with running_task(consumer.run()):
        await eventually(lambda: dead_letters(connection))
        async with plain_channel(environment["AMQP_URL"]) as channel:
            await (await channel.get_queue(DEAD)).unbind(topology.DEAD_EXCHANGE, "#")
        await give_up(environment, other := order(A))
        await eventually(lambda: _are(connection, 2))
    assert await dead_letters(connection) == parked("persist", it, other)


async def _are(connection: Connection, count: int) -> bool:
    return len(await dead_letters(connection)) == count


async def test_p2_an_order_that_is_decided_does_not_become_a_dead_letter(
    environment: dict[str, str], connection: Connection
) -> None:
    await add_product(connection, A, 5)
    decided, undecided = order(A), order(A)
    await store(environment, decided)
    await decide(environment)
    await give_up(environment, decided, undecided, queue=CREATED)
    await park_all(environment, 1)
    assert await dead_letters(connection) == parked("persist", undecided)


async def test_p10_what_nobody_can_read_is_parked_byte_by_byte_with_its_version(
    environment: dict[str, str], connection: Connection
) -> None:
    bodies = {b"\x00\xff no JSON": SCHEMA, body_of(order(A)): 9, b'[{"id":7}]': SCHEMA, b"[1": "two"}
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_dead(channel)
        for body, schema in bodies.items():  # and none of the messages names its queue
            await send(channel, topology.DEAD_EXCHANGE, "x", body, headers={"schema": schema})
    await park_all(environment, len(bodies))
    assert await dead_letters(connection) == [DeadRow(None, "persist", Reason.DEAD_LETTERED, body) for body in bodies]
    rows = await connection.fetch("SELECT schema_version FROM dead_letters ORDER BY id")
    assert [row[0] for row in rows] == [SCHEMA, 9, SCHEMA, None]


async def test_p2_a_death_before_the_ack_parks_nothing_twice(
    environment: dict[str, str], connection: Connection
) -> None:
    it = order(A)
    await give_up(environment, it)
    letters = sample("headrace_orders_parked_total", stage="persist", reason="rejected")
    async with grown(letters) as growth:
        async with dead_letter_consumer(environment) as consumer:
            batch = await consumer._consumer.next()
            assert batch is not None
            await module._park(connection, module.split_messages(batch.deliveries))
        for _ in range(2):
            async with dead_letter_consumer(environment) as consumer:
                assert await consumer.run_once() == 0
            assert await unsettled(environment["AMQP_URL"], DEAD) == 0
            await give_up(environment, it)
        assert await dead_letters(connection) == parked("persist", it)
    assert growth() == [0]


async def test_p1_while_the_database_is_away_nothing_is_acknowledged_and_afterwards_all_is_parked(
    environment: dict[str, str], connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = order(A)
    await give_up(environment, it)
    wait_20_ms_for_locks(monkeypatch)
    async with dead_letter_consumer(environment) as consumer:
        async with locked(environment["DATABASE_URL"], "dead_letters"):
            parking = asyncio.create_task(consumer.run_once())
            await eventually(lambda: "55P03" in str(consumer._database._health.summary()))
            assert not parking.done()
        assert await parking == 1
    assert await dead_letters(connection) == parked("persist", it)
    assert await unsettled(environment["AMQP_URL"], DEAD) == 0


async def test_who_waits_for_the_verdict_of_what_is_parked_is_told(
    environment: dict[str, str], connection: Connection
) -> None:
    heard = asyncio.Event()
    await connection.add_listener("headrace_verdicts", lambda *_: heard.set())
    await give_up(environment, order(A))
    async with dead_letter_consumer(environment) as consumer:
        await consumer.run_once()
        async with asyncio.timeout(5):
            await heard.wait()


async def test_p1_a_bug_in_the_net_ends_the_net_alone_and_loses_nothing(
    environment: dict[str, str], connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def buggy(*_: object) -> None:
        raise ZeroDivisionError

    await give_up(environment, it := order(A))
    health = Health("persist_worker", optional=(PART, PUBLISHER))
    consumer, _ = make_dead_letter_consumer(environment, health)
    with monkeypatch.context() as patched:
        patched.setattr(module, "_park", buggy)
        running = asyncio.create_task(consumer.run())
        await eventually(lambda: "a bug" in str(health.summary()["parts"]))
    assert not running.done(), "the end of a background task is the end of its process"
    assert health.is_ready
    await lifecycle.end([running])
    await eventually(lambda: is_dead_lettered(environment))
    consumer, _ = make_dead_letter_consumer(environment, health)
    async with running_task(consumer.run()):
        await eventually(lambda: dead_letters(connection))
    assert await dead_letters(connection) == parked("persist", it)
