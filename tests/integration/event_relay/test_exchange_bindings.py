"""P11: a queue that is bound to some types gets them all, and the types that nobody wants cost nothing."""

import json
from functools import partial

import pytest

from database.connection import Connection
from pipeline.contract.order_events import EventType
from tests.support.data.orders import new_product_id, order
from tests.support.scenes.events.bound_queue import bound, is_at
from tests.support.services.processes import Service
from tests.support.services.relay import decide, park_order, relaying
from tests.support.time.conditions import eventually

A = new_product_id()


def repeated_lines(relay: Service) -> set[str]:
    """Of the log, without their times and fields."""
    said = [json.loads(line)["event"] for line in relay.log().splitlines() if line.startswith("{")]
    return {it for it in said if said.count(it) > 1}


async def test_a_queue_of_a_rare_type_gets_it_past_thousands_that_nobody_wants(
    environment: dict[str, str], connection: Connection
) -> None:
    parked = [order(A) for _ in range(3)]
    for it in parked:
        for _ in range(7):
            await decide(connection, *[order(A) for _ in range(1000)])
        await park_order(connection, it)
    async with bound(environment["AMQP_URL"], EventType.PARKED) as consumer, relaying(environment) as relay:
        # A relay that passed one page a second needed 42 s.
        await eventually(lambda: is_at(connection, 21_003), 30)
        # Now at the end of the log, where each page is small.
        for number in range(1, 11):
            await decide(connection, order(A))
            await eventually(partial(is_at, connection, 21_003 + number))
        await park_order(connection, last := order(A))
        await eventually(lambda: is_at(connection, 21_014))
        await eventually(lambda: len(consumer.ids) >= 4)
        assert await relay.metric("headrace_events_published_total") == 4
        assert consumer.ids == [f"{it.id}.1" for it in [*parked, last]]
        assert consumer.empty <= 1
        assert not repeated_lines(relay)


@pytest.mark.parametrize("key", ["order.*", "#", "*.failed"])
async def test_a_wildcard_that_is_bound_while_nobody_was_gets_every_event_from_then_on(
    environment: dict[str, str], connection: Connection, key: str
) -> None:
    async with relaying(environment) as relay:
        await decide(connection, order(A))
        await eventually(lambda: is_at(connection, 1))
        async with bound(environment["AMQP_URL"], key) as consumer:
            orders = [order(A) for _ in range(30)]
            for it in orders:
                await decide(connection, it)
            await park_order(connection, order(A))
            await eventually(lambda: is_at(connection, 32))
            await eventually(lambda: len(consumer.ids) >= 30 + (key != "*.failed"))
        failed = [event["id"] for event in consumer.events if event["type"] == EventType.FAILED]
        assert failed == [f"{it.id}.1" for it in orders]
        assert consumer.empty <= 1
        assert not repeated_lines(relay)


async def test_a_queue_misses_nothing_of_its_type_if_another_one_was_there_before(
    environment: dict[str, str], connection: Connection
) -> None:
    """The relay has learned that nobody wants order.failed, and it is at work for another queue meanwhile."""
    async with bound(environment["AMQP_URL"], EventType.PARKED) as early, relaying(environment):
        await decide(connection, order(A))
        await park_order(connection, order(A))
        await eventually(lambda: is_at(connection, 2))
        for at in range(2, 20, 2):
            async with bound(environment["AMQP_URL"], EventType.FAILED) as late:
                failed = order(A)
                await decide(connection, failed)
                await eventually(lambda: late.ids)
                assert late.ids == [f"{failed.id}.1"]
            await park_order(connection, order(A))
            await eventually(partial(is_at, connection, at + 2))
        await eventually(lambda: len(early.ids) == 10)


async def test_when_the_last_queue_is_gone_nothing_is_published_until_the_next_is_bound(
    environment: dict[str, str], connection: Connection
) -> None:
    async with relaying(environment) as relay:
        for at in (0, 22):
            async with bound(environment["AMQP_URL"], EventType.FAILED) as consumer:
                await decide(connection, it := order(A))
                await eventually(lambda: consumer.ids)
                assert consumer.ids == [f"{it.id}.1"]
            await decide(connection, *[order(A) for _ in range(20)])
            await park_order(connection, order(A))
            await eventually(partial(is_at, connection, at + 22))
        assert await relay.metric("headrace_events_published_total") == 2
