"""P11: of two relays, one publishes. What it sends is confirmed or given up before another one begins."""

import signal

from database.connection import Connection
from tests.support.data.orders import new_product_id, order
from tests.support.faults.faults import proxy_to
from tests.support.scenes.events.bound_queue import bound, is_at
from tests.support.services.relay import decide, relaying
from tests.support.time.conditions import eventually

A = new_product_id()


async def holder(connection: Connection) -> str | None:
    it: str | None = await connection.fetchval("SELECT holder::text FROM event_exchange")
    return it


async def test_a_relay_gives_up_a_message_without_a_confirm_before_another_one_publishes(
    environment: dict[str, str], connection: Connection
) -> None:
    """The confirm may take longer than the lease, and the relay can no longer extend it."""
    orders = [order(A) for _ in range(2)]
    async with (
        bound(environment["AMQP_URL"]) as consumer,
        proxy_to(environment["AMQP_URL"]) as broker,
        proxy_to(environment["DATABASE_URL"]) as database,
    ):
        by_proxy = {
            "AMQP_URL": broker.url(environment["AMQP_URL"]),
            "DATABASE_URL": database.url(environment["DATABASE_URL"]),
        }
        async with relaying(environment | by_proxy, confirm_timeout_s=30) as first:
            await decide(connection, orders[0])
            await eventually(lambda: is_at(connection, 1))
            held_by = await holder(connection)
            async with relaying(environment):
                broker.hold()
                await decide(connection, orders[1])
                await eventually(lambda: len(consumer.ids) == 2)
                database.go_away()

                async def another_one_publishes() -> bool:
                    return await holder(connection) != held_by

                await eventually(another_one_publishes, 15)
                assert "publish without an answer" in first.log()
                await eventually(lambda: is_at(connection, 2))
    assert list(dict.fromkeys(consumer.ids)) == [f"{it.id}.1" for it in orders]


async def test_a_relay_that_was_frozen_past_its_lease_publishes_nothing(
    environment: dict[str, str], connection: Connection
) -> None:
    async with bound(environment["AMQP_URL"]) as consumer, relaying(environment) as frozen:
        await decide(connection, order(A))
        await eventually(lambda: is_at(connection, 1))
        frozen.process.send_signal(signal.SIGSTOP)
        await eventually(lambda: frozen.is_stopped)
        await decide(connection, *[order(A) for _ in range(20)])
        async with relaying(environment):
            await eventually(lambda: is_at(connection, 21), 15)
            frozen.process.send_signal(signal.SIGCONT)

            async def it_has_seen_them() -> bool:
                return await frozen.metric("headrace_event_log_offset") == 21

            await eventually(it_has_seen_them)
            await decide(connection, order(A))
            await eventually(lambda: is_at(connection, 22))
            await eventually(lambda: len(consumer.ids) >= 22)
            assert await frozen.metric("headrace_events_published_total") == 1
    assert len(consumer.ids) == len(set(consumer.ids)) == 22
