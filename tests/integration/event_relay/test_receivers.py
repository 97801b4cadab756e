"""P11: a receiver that fails, is slow or misbehaves misses no event, gets them in order, and delays nobody else."""

import asyncio
import time
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from database.connection import Connection
from tests.support.data.orders import new_product_id, order
from tests.support.scenes.events.receiver import OK, Behave, Received, Receiver, answer, receiving, saying
from tests.support.services.processes import free_port
from tests.support.services.relay import add_hook, attempts_of, change_hook, decide, hook_row, relaying
from tests.support.time.conditions import eventually

A = new_product_id()


def failing_times(count: int, failing: Behave) -> Behave:
    """Misbehave so many times, then take everything."""
    left = [failing] * count
    taking = saying(OK)

    async def behave(request: Received, writer: asyncio.StreamWriter) -> bool:
        return await (left.pop() if left else taking)(request, writer)

    return behave


async def is_failing(connection: Connection, hook_id: str) -> Any:
    row = await hook_row(connection, hook_id)
    return row if row["failing_since"] is not None else None


async def is_at(connection: Connection, hook_id: str, offset: int) -> Any:
    row = await hook_row(connection, hook_id)
    return row if row["delivered"] == offset else None


@pytest.mark.parametrize(
    ("failing", "error"),
    [
        (saying(answer(500, b"oops")), "status 500"),
        (saying(answer(404)), "status 404"),
        (saying(answer(302, location="http://127.0.0.1:1/")), "status 302: redirects are not followed"),
        (saying(b"", hang_up=True), "the receiver hung up without an answer"),
        (saying(b"HTTP/1.1 200 x\r\ncontent-length: -1\r\n\r\n", hang_up=True), "the receiver's answer is no HTTP"),
    ],
)
async def test_what_is_not_taken_is_sent_again_and_nothing_overtakes_it(
    environment: dict[str, str], connection: Connection, receiver: Receiver, failing: Behave, error: str
) -> None:
    orders = [order(A) for _ in range(3)]
    await decide(connection, *orders)
    receiver.behave = failing_times(2, failing)
    hook_id = await add_hook(connection, receiver.url)
    async with relaying(environment):
        row = await eventually(lambda: is_failing(connection, hook_id))
        assert (row["last_error"], row["delivered"]) == (error, 0)
        row = await eventually(lambda: is_at(connection, hook_id, 3))
        assert (row["failing_since"], row["failures"], row["last_error"], row["retry_at"]) == (None, 0, None, None)

        async def told() -> Any:
            attempts = await attempts_of(connection, hook_id)
            return attempts if len(attempts) >= 3 else None

        attempts = await eventually(told)
    first, second, third = (f"{it.id}.1" for it in orders)
    assert receiver.event_ids == [first, first, first, second, third]
    assert len({it.headers["webhook-id"] for it in receiver.requests[:3]}) == 1
    assert len({it.body for it in receiver.requests[:3]}) == 1
    assert [it["status"] is not None and it["status"] < 300 for it in attempts[:3]] == [False, False, True]


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nsho",
    ],
)
async def test_a_receiver_that_lies_about_the_length_of_its_answer_gets_each_event_once(
    environment: dict[str, str], connection: Connection, receiver: Receiver, raw: bytes
) -> None:
    orders = [order(A) for _ in range(3)]
    await decide(connection, *orders)
    receiver.behave = saying(raw, hang_up=True)
    hook_id = await add_hook(connection, receiver.url)
    async with relaying(environment):
        await eventually(lambda: is_at(connection, hook_id, 3))
    assert receiver.event_ids == [f"{it.id}.1" for it in orders]


async def test_a_receiver_that_answers_a_gigabyte_costs_neither_memory_nor_time(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    await decide(connection, *[order(A) for _ in range(20)])
    receiver.behave = receiver.flood(2**30)
    hook_id = await add_hook(connection, receiver.url)
    async with relaying(environment) as relay:
        before = await relay.metric("process_resident_memory_bytes")
        await eventually(lambda: is_at(connection, hook_id, 20))
        assert await relay.metric("process_resident_memory_bytes") - before < 30 * 2**20
        attempts = await eventually(lambda: attempts_of(connection, hook_id))
        assert {len(it["answer"]) for it in attempts} == {4096}
    assert len(receiver.requests) == 20


async def test_410_pauses_the_hook_and_a_resume_goes_on_where_it_stopped(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    orders = [order(A) for _ in range(2)]
    await decide(connection, orders[0])
    receiver.behave = saying(answer(410))
    hook_id = await add_hook(connection, receiver.url)
    async with relaying(environment) as relay:

        async def is_paused() -> Any:
            return (await hook_row(connection, hook_id))["pause_reason"]

        assert "410" in await eventually(is_paused)
        await decide(connection, orders[1])
        receiver.behave = saying(OK)
        await eventually(lambda: _metric(relay, 'headrace_hooks{state="paused"}', 1))
        assert len(receiver.requests) == 1
        await change_hook(connection, hook_id, "pause_reason = NULL, retry_at = NULL")
        await eventually(lambda: is_at(connection, hook_id, 2))
    assert receiver.event_ids == [f"{it.id}.1" for it in (orders[0], *orders)]


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_obeyed(
    environment: dict[str, str], connection: Connection, receiver: Receiver, status: int
) -> None:
    at: list[float] = []
    busy = saying(answer(status, retry_after="2"))

    async def behave(request: Received, writer: asyncio.StreamWriter) -> bool:
        at.append(time.monotonic())
        return await (busy if len(at) == 1 else saying(OK))(request, writer)

    receiver.behave = behave
    await decide(connection, order(A))
    hook_id = await add_hook(connection, receiver.url)
    async with relaying(environment):
        await eventually(lambda: is_at(connection, hook_id, 1))
    assert at[1] - at[0] >= 2


async def test_a_receiver_that_is_away_gets_everything_when_it_is_back(
    environment: dict[str, str], connection: Connection
) -> None:
    orders = [order(A) for _ in range(50)]
    port = free_port()
    hook_id = await add_hook(connection, f"http://127.0.0.1:{port}/hook", batch=20)
    async with relaying(environment) as relay:
        await decide(connection, orders[0])
        row = await eventually(lambda: is_failing(connection, hook_id))
        assert row["last_error"].startswith("not connected: ")
        assert row["retry_at"] - row["failing_since"] < timedelta(seconds=5)
        for it in orders[1:]:
            await decide(connection, it)
        await eventually(lambda: _metric(relay, 'headrace_hooks{state="failing"}', 1))
        await eventually(lambda: _metric(relay, f'headrace_hook_lag_events{{hook="{hook_id}"}}', 50))
        async with receiving(port) as receiver:
            await eventually(lambda: is_at(connection, hook_id, 50), 40)  # each wait is twice as long as the one before
            assert receiver.event_ids == [f"{it.id}.1" for it in orders]
        await eventually(lambda: _metric(relay, 'headrace_hooks{state="active"}', 1))


async def _metric(relay: Any, sample: str, value: float) -> bool:
    return bool(await relay.metric(sample) == value)


async def test_a_slow_and_a_dead_receiver_delay_nobody_else(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    async def slow(_: Received, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(5)
        writer.write(OK)
        return True

    async def silent(_: Received, __: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(3600)
        return True

    async with receiving() as slow_one, receiving() as silent_one:
        slow_one.behave, silent_one.behave = slow, silent
        for url in (slow_one.url, silent_one.url, f"http://127.0.0.1:{free_port()}/", "https://no-such-name.invalid/"):
            await add_hook(connection, url)
        quick = await add_hook(connection, receiver.url)
        async with relaying(environment):
            for number in range(1, 31):
                await decide(connection, order(A))
                await eventually(partial(receiver.has_events, number))
            assert len(slow_one.requests) < 10  # one for each event, if the quick one had to wait for it
            await eventually(lambda: is_at(connection, quick, 30))
            await eventually(lambda: len(slow_one.requests) >= 2, 15)
        assert slow_one.most_at_once == 1
        # Ten seconds later it is asked again, and never for the next event.
        assert len(set(silent_one.event_ids)) == 1


async def test_a_receiver_may_take_longer_than_is_left_of_a_lease(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    """Leases are extended every 3 s. These requests begin at different times between two of them."""

    async def slow(_: Received, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(8)
        writer.write(OK)
        return True

    receiver.behave = slow
    products = [new_product_id() for _ in range(5)]
    hook_ids = [await add_hook(connection, receiver.url, product_id=it) for it in products]
    async with relaying(environment):
        for count, product_id in enumerate(products, 1):
            await decide(connection, order(product_id))
            await eventually(partial(receiver.has_requests, count))
            await asyncio.sleep(0.7)  # so that the next request begins later in its lease
        for hook_id in hook_ids:
            attempts = await eventually(partial(attempts_of, connection, hook_id), 12)
            assert [it["status"] for it in attempts] == [204]
    assert len(receiver.requests) == 5


async def test_a_success_is_told_once_a_second_and_only_the_last_attempts_are_kept(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    hook_id = await add_hook(connection, receiver.url)
    async with relaying(environment):
        began = time.monotonic()
        await decide(connection, *[order(A) for _ in range(300)])
        await eventually(lambda: is_at(connection, hook_id, 300), 60)
        attempts = await eventually(lambda: attempts_of(connection, hook_id))
        assert len(attempts) <= 1 + (time.monotonic() - began)
        assert len(attempts) < 100
        await connection.execute(
            "INSERT INTO hook_attempts (hook_id, events, took_ms) SELECT $1, 1, 1 FROM generate_series(1, 50)", hook_id
        )
        receiver.behave = failing_times(1, saying(answer(500, b"a \x00 b \xff")))
        await decide(connection, order(A))
        await eventually(lambda: is_at(connection, hook_id, 301))

        async def is_short() -> Any:
            attempts = await attempts_of(connection, hook_id)
            return attempts if len(attempts) == 20 else None

        attempts = await eventually(is_short)
    assert "a � b �" in [it["answer"] for it in attempts]
