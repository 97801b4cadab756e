"""P11: a queue bound to order_events gets every event logged after that, in order. Without one, none is sent."""

import json
import signal
from functools import partial

import aio_pika
import httpx
import pytest
from pamqp.common import FieldTable

from database.connection import Connection
from pipeline.contract.order_events import EventType
from pipeline.contract.topology import EVENTS_EXCHANGE, declare_events
from tests.chaos.faults import failpoints
from tests.support.brokers.broker import plain_channel
from tests.support.data.orders import new_product_id, order
from tests.support.faults.faults import proxy_to
from tests.support.scenes.events.bound_queue import bound, is_at, published
from tests.support.scenes.events.receiver import Receiver
from tests.support.services.processes import service_process
from tests.support.services.relay import add_hook, decide, park_order, relaying, replay_letters
from tests.support.time.conditions import eventually

A = new_product_id()


async def test_a_bound_queue_gets_every_event_in_the_order_of_the_log(
    environment: dict[str, str], connection: Connection
) -> None:
    orders = [order(A) for _ in range(700)]
    async with bound(environment["AMQP_URL"]) as consumer, relaying(environment) as relay:
        await decide(connection, *orders[:600])
        for it in orders[600:605]:
            await decide(connection, it)
        await park_order(connection, orders[605])
        await replay_letters(connection)
        await decide(connection, *orders[605:])
        await eventually(lambda: len(consumer.events) == 701)
        await eventually(lambda: is_at(connection, 701))
        assert await relay.metric("headrace_events_published_total") == 701
        assert await relay.stop() == 0
    failed = [event for event in consumer.events if event["type"] == EventType.FAILED]
    assert [event["order"]["id"] for event in failed] == [it.id for it in orders]
    own = [event for event in consumer.events if event["order"]["id"] == orders[605].id]
    assert [(event["type"], event["sequence"]) for event in own] == [(EventType.PARKED, 1), (EventType.FAILED, 2)]
    message = consumer.messages[0]
    assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert message.content_type == "application/json"
    assert message.routing_key == EventType.FAILED
    assert len(consumer.messages) < 20


async def test_a_queue_gets_the_types_that_it_is_bound_to(environment: dict[str, str], connection: Connection) -> None:
    parked, failed = order(A), order(A)
    async with bound(environment["AMQP_URL"], EventType.PARKED) as consumer, relaying(environment):
        await decide(connection, failed)
        await park_order(connection, parked)
        await eventually(lambda: consumer.ids == [f"{parked.id}.1"])
        await eventually(lambda: is_at(connection, 2))


async def test_while_nobody_is_bound_nothing_is_sent_and_the_first_queue_misses_nothing(
    environment: dict[str, str], connection: Connection
) -> None:
    old, during = [order(A) for _ in range(20)], [order(A) for _ in range(20)]
    async with relaying(environment) as relay:
        for it in old:
            await decide(connection, it)
        await eventually(lambda: is_at(connection, 20))
        async with bound(environment["AMQP_URL"]) as consumer:
            for it in during:
                await decide(connection, it)
            await eventually(lambda: len(consumer.events) >= 20)
            assert consumer.ids == [f"{it.id}.1" for it in during]
        await decide(connection, order(A))
        await eventually(lambda: is_at(connection, 41))
        assert await relay.metric("headrace_events_published_total") == 20
        # Nothing of ours is missing, so nothing is declared again.
        assert await relay.metric('headrace_broker_redeclarations_total{connection="publisher"}') == 0


async def test_a_relay_that_lost_its_lease_moves_no_cursor_back(
    environment: dict[str, str], connection: Connection
) -> None:
    async with bound(environment["AMQP_URL"]) as consumer, relaying(environment):
        await decide(connection, order(A))
        await eventually(lambda: len(consumer.events) == 1)
        await eventually(lambda: is_at(connection, 1))
        await connection.execute(
            "UPDATE event_exchange SET holder = gen_random_uuid(), held_until = now() + interval '1 h', published = 50"
        )
        await decide(connection, *[order(A) for _ in range(3)])
        # It may have sent what was new before it looked. Then it has found that it may not write.
        await connection.execute("UPDATE event_exchange SET held_until = now() - interval '1 s'")
        await decide(connection, *[order(A) for _ in range(50)])
        await eventually(lambda: is_at(connection, 54))
        await eventually(lambda: len(consumer.ids) >= 5)


# ── faults


@pytest.mark.parametrize(("name", "repeated"), [("relay.before_publish", 0), ("relay.published_before_cursor", 1)])
async def test_a_relay_that_is_killed_before_or_after_a_publish_loses_nothing_and_repeats_little(
    environment: dict[str, str], connection: Connection, name: str, repeated: int
) -> None:
    orders = [order(A) for _ in range(3)]
    variables = {**environment, failpoints.VARIABLE: f"{name}:kill:2"}
    async with bound(environment["AMQP_URL"]) as consumer:
        async with service_process("event_relay", variables, program="tests.chaos.faults.failing") as relay:
            await decide(connection, orders[0])
            await eventually(lambda: is_at(connection, 1))
            await decide(connection, orders[1])
            assert await relay.ended() == -signal.SIGKILL
        await decide(connection, orders[2])
        await connection.execute("UPDATE event_exchange SET held_until = now() - interval '1 ms'")
        async with relaying(environment):
            await eventually(lambda: is_at(connection, 3))
            await eventually(lambda: len(consumer.events) == 3 + repeated)
    assert list(dict.fromkeys(consumer.ids)) == [f"{it.id}.1" for it in orders]
    assert len(consumer.ids) == 3 + repeated


async def test_while_rabbitmq_is_away_webhooks_go_on_and_its_queues_get_everything_later(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    orders = [order(A) for _ in range(20)]
    async with (
        bound(environment["AMQP_URL"]) as consumer,
        proxy_to(environment["AMQP_URL"]) as broker,
        relaying(environment | {"AMQP_URL": broker.url(environment["AMQP_URL"])}) as relay,
    ):
        await add_hook(connection, receiver.url)
        await decide(connection, orders[0])
        await eventually(lambda: is_at(connection, 1))
        broker.go_away()
        for it in orders[1:]:
            await decide(connection, it)
        await eventually(lambda: len(receiver.events) == 20)
        async with httpx.AsyncClient(base_url=relay.url) as client:

            async def has_noticed() -> bool:
                return bool((await client.get("/health")).json()["parts"]["publisher"] != "ok")

            await eventually(has_noticed)
            assert (await client.get("/readyz")).status_code == 200
        assert await published(connection) == 1
        broker.come_back()
        await eventually(lambda: is_at(connection, 20), 15)
        await eventually(lambda: len(set(consumer.ids)) == 20)
    assert list(dict.fromkeys(consumer.ids)) == [f"{it.id}.1" for it in orders]


async def test_an_exchange_that_somebody_deleted_is_declared_again(
    environment: dict[str, str], connection: Connection
) -> None:
    async with relaying(environment) as relay:
        async with plain_channel(environment["AMQP_URL"]) as channel:
            await channel.exchange_delete(EVENTS_EXCHANGE)
        await decide(connection, order(A))
        await eventually(lambda: is_at(connection, 1), 15)
        assert "NOT_FOUND" in relay.log()
        async with bound(environment["AMQP_URL"]) as consumer:
            await decide(connection, order(A))
            await eventually(lambda: len(consumer.events) == 1)


async def test_a_confirm_that_never_comes_repeats_a_message_and_skips_none(
    environment: dict[str, str], connection: Connection
) -> None:
    orders = [order(A) for _ in range(3)]
    async with bound(environment["AMQP_URL"]) as consumer, proxy_to(environment["AMQP_URL"]) as broker:
        variables = {"AMQP_URL": broker.url(environment["AMQP_URL"])}
        async with relaying(environment | variables, confirm_timeout_s=0.5):
            await decide(connection, orders[0])
            await eventually(lambda: is_at(connection, 1))
            broker.forget()
            await decide(connection, *orders[1:])
            await eventually(lambda: is_at(connection, 3), 15)
            await eventually(lambda: len(set(consumer.ids)) == 3)
    assert list(dict.fromkeys(consumer.ids)) == [f"{it.id}.1" for it in orders]


async def test_a_full_queue_holds_up_the_exchange_and_nothing_is_lost(
    environment: dict[str, str], connection: Connection
) -> None:
    async with await aio_pika.connect(environment["AMQP_URL"]) as amqp, relaying(environment) as relay:
        channel = await amqp.channel()
        await declare_events(channel)
        limits: FieldTable = {"x-max-length": 1, "x-overflow": "reject-publish"}
        queue = await channel.declare_queue(exclusive=True, arguments=limits)
        await queue.bind(EVENTS_EXCHANGE, "order.*")
        for count in range(1, 4):
            await decide(connection, order(A))
            if count == 1:
                await eventually(lambda: is_at(connection, 1))
        await eventually(lambda: "events were not published" in relay.log())
        assert await published(connection) == 1
        got: list[str] = []

        async def take() -> bool:
            if (message := await queue.get(fail=False)) is not None:
                got.extend(event["id"] for event in json.loads(message.body))
                await message.ack()
            return len(set(got)) == 3

        await eventually(take, 15)
        await eventually(lambda: is_at(connection, 3))


async def test_a_full_queue_that_drops_its_oldest_messages_holds_up_nobody(
    environment: dict[str, str], connection: Connection
) -> None:
    """As the documents advise."""
    orders = [order(A) for _ in range(5)]
    limits: FieldTable = {"x-queue-type": "quorum", "x-max-length": 2, "x-overflow": "drop-head"}
    async with (
        bound(environment["AMQP_URL"]) as other,
        await aio_pika.connect(environment["AMQP_URL"]) as amqp,
        relaying(environment),
    ):
        channel = await amqp.channel()
        queue = await channel.declare_queue("absent", durable=True, arguments=limits)
        await queue.bind(EVENTS_EXCHANGE, "order.*")
        for count, it in enumerate(orders, 1):
            await decide(connection, it)
            await eventually(partial(is_at, connection, count))
        await eventually(lambda: len(other.ids) == 5)
        kept = [await queue.get(no_ack=True) for _ in range(2)]
    assert [json.loads(it.body)[0]["id"] for it in kept] == [f"{it.id}.1" for it in orders[-2:]]


async def test_postgres_away_for_a_while_costs_nothing_but_time(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    orders = [order(A) for _ in range(10)]
    async with (
        bound(environment["AMQP_URL"]) as consumer,
        proxy_to(environment["DATABASE_URL"]) as database,
        relaying(environment | {"DATABASE_URL": database.url(environment["DATABASE_URL"])}) as relay,
    ):
        hook_id = await add_hook(connection, receiver.url)
        await decide(connection, *orders[:5])
        await eventually(lambda: is_at(connection, 5))
        await eventually(lambda: len(receiver.events) == 5)
        database.go_away()
        await decide(connection, *orders[5:])
        async with httpx.AsyncClient(base_url=relay.url) as client:

            async def is_ready(wanted: bool) -> bool:
                return ((await client.get("/readyz")).status_code == 200) is wanted

            await eventually(lambda: is_ready(False))
            database.come_back()
            await eventually(lambda: is_ready(True))
        await eventually(lambda: is_at(connection, 10))
        await eventually(lambda: connection.fetchval("SELECT delivered = 10 FROM hooks WHERE id = $1", hook_id))
        assert await relay.stop() == 0
    expected = [f"{it.id}.1" for it in orders]
    assert list(dict.fromkeys(receiver.event_ids)) == list(dict.fromkeys(consumer.ids)) == expected


async def test_after_a_restore_of_the_database_everything_goes_on_where_its_rows_say(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    before, after = [order(A) for _ in range(5)], [order(A) for _ in range(4)]
    async with bound(environment["AMQP_URL"]) as consumer, relaying(environment):
        hook_id = await add_hook(connection, receiver.url)
        for it in before:
            await decide(connection, it)
        await eventually(lambda: is_at(connection, 5))
        await eventually(lambda: connection.fetchval("SELECT delivered = 5 FROM hooks WHERE id = $1", hook_id))
        async with connection.transaction():
            await connection.execute("DELETE FROM event_batches WHERE first_offset > 2")
            await connection.execute("UPDATE event_log SET last_offset = 2, id = id # 1")
            await connection.execute("UPDATE hooks SET delivered = 2")
            await connection.execute("UPDATE event_exchange SET published = 2")
            # At once, so that the relay's first look at the other log finds it longer than the one that it followed.
            for it in after:
                await decide(connection, it)
        await eventually(lambda: is_at(connection, 6))
        await eventually(lambda: connection.fetchval("SELECT delivered = 6 FROM hooks WHERE id = $1", hook_id))
        expected = [f"{it.id}.1" for it in [*before, *after]]
        await eventually(lambda: len(consumer.ids) >= len(expected))
    assert receiver.event_ids == expected
    assert consumer.ids == expected
