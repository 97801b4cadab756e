"""Replaying dead letters: a confirmed letter is marked; a letter that is sent twice is still one order (P2, P10)."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

import aio_pika
import pytest

from database.connection import Connection
from database.dead_letters import DeadLetter, park
from pipeline.broker.incoming import Unreadable
from pipeline.broker.publisher import Outcome
from pipeline.contract.orders import SCHEMA
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from stack.operate.dead.replay import at_once
from stack.operate.dead.sql import Filters, TakenLetter
from tests.conftest import Servers
from tests.support.brokers.broker import Management
from tests.support.data.orders import body_of, new_product_id, order
from tests.support.scenes.replays import (
    ACCEPTED,
    CREATED,
    park_orders,
    replay_all,
    replayed,
    run_pipeline,
    sending,
    waiting,
)
from tests.support.services.ingest import messages_in
from tests.support.services.workers import add_product, assert_conserved, connected, stored_orders, verdicts

A, B = new_product_id(), new_product_id()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        yield it


async def queued(environment: dict[str, str], queue: str) -> list[aio_pika.abc.AbstractIncomingMessage]:
    return await messages_in(environment["AMQP_URL"], queue)


def said_by(message: aio_pika.abc.AbstractIncomingMessage) -> dict[str, Any]:
    """The message's headers, without those that the broker adds."""
    return {name: value for name, value in message.headers.items() if not name.startswith("x-")}


async def confirmed(_: TakenLetter) -> Outcome:
    """A broker that confirms everything, for tests of the database alone."""
    return Outcome.CONFIRMED


# ── where to, and as what


async def test_a_letter_goes_to_the_queue_that_it_came_from_as_it_came(
    environment: dict[str, str], connection: Connection
) -> None:
    unstored, undecided = order(A), order(A)
    await park_orders(connection, Stage.PERSIST, unstored)
    await park_orders(connection, Stage.STOCK, undecided)
    assert (await replay_all(environment)).confirmed == {"persist": 1, "stock": 1}
    for queue, it in ((ACCEPTED, unstored), (CREATED, undecided)):
        (message,) = await queued(environment, queue)
        assert message.body == body_of(it)
        assert said_by(message) == {"schema": SCHEMA, "orders": 1}
        assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert await waiting(connection) == []


async def test_a_body_of_another_version_is_sent_as_that_version(
    environment: dict[str, str], connection: Connection
) -> None:
    """Otherwise the body would be read as the current version."""
    bodies: dict[bytes, Any] = {body_of(order(A)): 9, b"[2]": None, b"\x00": SCHEMA}
    await park(connection, Stage.PERSIST, [DeadLetter.of(Unreadable(*it)) for it in _unreadable(bodies)])
    await replay_all(environment)
    messages = {it.body: said_by(it) for it in await queued(environment, ACCEPTED)}
    assert messages == {body: {} if schema is None else {"schema": schema} for body, schema in bodies.items()}


def _unreadable(bodies: dict[bytes, Any]) -> list[tuple[bytes, str, Any]]:
    return [(body, "", schema) for body, schema in bodies.items()]


# ── what is marked


async def test_only_what_was_confirmed_is_marked_and_the_first_that_was_not_ends_it(connection: Connection) -> None:
    orders = [order(A) for _ in range(120)]
    await park_orders(connection, Stage.PERSIST, *orders)
    bodies = [body_of(it) for it in orders]

    async def send(letter: TakenLetter) -> Outcome:
        return Outcome.REFUSED if letter.body in bodies[60::2] else Outcome.CONFIRMED

    done = await replayed(connection, send)
    assert (done.confirmed, done.unconfirmed) == ({"persist": 80}, {Outcome.REFUSED: 20})
    left = [it.id for index, it in enumerate(orders) if index >= 100 or (index >= 60 and index % 2 == 0)]
    assert await waiting(connection) == left


async def test_what_no_queue_takes_is_not_marked(
    environment: dict[str, str], connection: Connection, servers: Servers
) -> None:
    await park_orders(connection, Stage.PERSIST, it := order(A))
    async with sending(environment) as send, Management(servers.rabbitmq_api, environment["AMQP_URL"]) as api:
        await api.delete_queue(ACCEPTED)
        done = await replayed(connection, send)
    assert (done.confirmed, done.unconfirmed) == ({}, {Outcome.UNROUTABLE: 1})
    assert await waiting(connection) == [it.id]
    assert (await replay_all(environment)).confirmed == {"persist": 1}


async def test_p2_twice_is_one_order(environment: dict[str, str], connection: Connection) -> None:
    """A second replay has nothing to send, unless the first died between the confirm and the mark."""
    await add_product(connection, A, 5)
    await park_orders(connection, Stage.PERSIST, it := order(A, 2))
    async with sending(environment) as send:
        is_sent = asyncio.Event()

        async def send_and_die(letter: TakenLetter) -> Outcome:
            await send(letter)
            is_sent.set()
            await asyncio.get_running_loop().create_future()
            raise AssertionError("nobody wakes it")

        dying = asyncio.create_task(replayed(connection, send_and_die))
        await asyncio.wait_for(is_sent.wait(), 5)
        dying.cancel()
        await asyncio.wait({dying})
    assert await waiting(connection) == [it.id]
    assert [(await replay_all(environment)).count for _ in range(2)] == [1, 0]
    assert [m.body for m in await queued(environment, ACCEPTED)] == [body_of(it)] * 2
    await run_pipeline(environment)
    assert await stored_orders(connection) == {it.id: (A, 2)}
    assert await verdicts(connection) == {it.id: None}
    assert await connection.fetchval("SELECT qty FROM products") == 3
    await assert_conserved(connection)


async def test_p2_two_replays_at_once_send_no_letter_twice(environment: dict[str, str], connection: Connection) -> None:
    orders = [order(A) for _ in range(300)]
    await park_orders(connection, Stage.PERSIST, *orders)
    done = await asyncio.gather(*(replay_all(environment) for _ in range(3)))
    assert sum(it.confirmed["persist"] for it in done) == 300
    messages = Counter(it.body for it in await queued(environment, ACCEPTED))
    assert messages == Counter(body_of(it) for it in orders)
    assert await waiting(connection) == []


# ── which, how many, how fast


async def test_the_oldest_go_first_and_no_more_than_the_limit(connection: Connection) -> None:
    orders = [order(A) for _ in range(70)]
    await park_orders(connection, Stage.PERSIST, *orders)
    for limit, sent, left in ((60, 60, 10), (3, 3, 7), (100, 7, 0)):
        assert (await replayed(connection, confirmed, limit=limit)).count == sent
        assert await waiting(connection) == [it.id for it in orders[70 - left :]]


async def test_no_more_are_sent_in_a_second_than_the_rate(connection: Connection) -> None:
    """Not even by a replay that waited for the broker, and has time to catch up."""
    await park_orders(connection, Stage.PERSIST, *(order(A) for _ in range(25)))
    sent_s: list[float] = []

    async def send(_: TakenLetter) -> Outcome:
        sent_s.append(time.monotonic())
        await asyncio.sleep(1 if len(sent_s) <= 5 else 0)
        return Outcome.CONFIRMED

    began_s = time.monotonic()
    assert (await replayed(connection, send, rate=20)).count == 25
    # The first group takes a second, and each of the others begins a quarter of a second after the one before.
    assert [at >= began_s + 1 + 0.24 * later for later, at in enumerate(sent_s[5::5])] == [True] * 4


def test_a_transaction_is_short_at_any_rate() -> None:
    assert [at_once(rate) for rate in (0.1, 1, 4, 8, 100, 1000, inf)] == [1, 1, 1, 2, 25, 50, 50]


async def test_a_filter_is_for_what_it_says(connection: Connection) -> None:
    mine, other = order(A), order(B)
    await park_orders(connection, Stage.PERSIST, mine)
    await park_orders(connection, Stage.STOCK, other, reason=Reason.DELIVERY_LIMIT)
    moment = await connection.fetchval("SELECT first_seen_at FROM dead_letters ORDER BY id DESC LIMIT 1")
    first, second = [row[0] for row in await connection.fetch("SELECT id FROM dead_letters ORDER BY id")]
    a_day = timedelta(days=1)
    for filters, expected in (
        (Filters(ids=(first,)), [mine.id]),
        (Filters(ids=(first, second)), [mine.id, other.id]),
        (Filters(stage="stock"), [other.id]),
        (Filters(reason=Reason.INVALID_DATA), [mine.id]),
        (Filters(order_id=mine.id), [mine.id]),
        (Filters(product_id=B), [other.id]),
        (Filters(since=moment), [other.id]),
        (Filters(until=moment), [mine.id]),
        (Filters(since=datetime.now(UTC) - a_day, until=datetime.now(UTC) + a_day), [mine.id, other.id]),
        (Filters(stage="stock", reason=Reason.INVALID_DATA), []),
        (Filters(), [mine.id, other.id]),
    ):
        assert (await replayed(connection, confirmed, filters)).count == len(expected), filters
        query = "SELECT order_id::text FROM dead_letters WHERE replayed_at IS NOT NULL ORDER BY id"
        assert [row[0] for row in await connection.fetch(query)] == expected, filters
        await connection.execute("UPDATE dead_letters SET replayed_at = NULL")
