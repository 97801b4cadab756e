"""P11: a webhook gets every event at least once, in the order of the log, signed, and what its filters let through."""

import json
from functools import partial
from typing import Any

from standardwebhooks.webhooks import Webhook

from database.connection import Connection
from pipeline.contract.order_events import EventType
from tests.support.data.orders import new_product_id, order
from tests.support.scenes.events.receiver import Receiver
from tests.support.services.relay import (
    add_hook,
    attempts_of,
    change_hook,
    decide,
    hook_row,
    new_secret,
    park_order,
    relaying,
    replay_letters,
)
from tests.support.time.conditions import eventually

A, B = new_product_id(), new_product_id()


async def test_a_hook_gets_every_event_signed_and_in_the_order_of_the_log(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    secret = new_secret()
    before, after = [order(A) for _ in range(3)], [order(A) for _ in range(3)]
    await decide(connection, *before)
    hook_id = await add_hook(connection, receiver.url, secret=secret)
    async with relaying(environment) as relay:
        await eventually(lambda: len(receiver.requests) == 3)
        for it in after:
            await decide(connection, it)
        await eventually(lambda: len(receiver.requests) == 6)
        assert await relay.stop() == 0
    assert receiver.event_ids == [f"{it.id}.1" for it in before + after]
    for request in receiver.requests:
        event = Webhook(secret).verify(request.body.decode(), request.headers)
        assert (event["type"], event["order"]["id"]) == (EventType.FAILED, event["id"].removesuffix(".1"))
        assert request.headers["webhook-id"] == event["id"]
    row = await hook_row(connection, hook_id)
    assert (row["delivered"], row["holder"], row["failing_since"], row["last_error"]) == (6, None, None, None)
    assert row["delivered_at"] is not None
    assert receiver.most_at_once == 1


async def test_batches_are_arrays_of_at_most_so_many_events(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    orders = [order(A) for _ in range(25)]
    await decide(connection, *orders)
    await add_hook(connection, receiver.url, batch=10)
    async with relaying(environment):
        await eventually(lambda: len(receiver.events) == 25)
    assert [len(json.loads(it.body)) for it in receiver.requests] == [10, 10, 5]
    assert receiver.event_ids == [f"{it.id}.1" for it in orders]
    assert len({it.headers["webhook-id"] for it in receiver.requests}) == 3


async def test_filters_leave_out_and_the_cursor_passes_what_they_leave_out(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    parked, failed = order(A), order(B)
    await decide(connection, failed)
    await park_order(connection, parked)
    typed = await add_hook(connection, receiver.url + "/typed", types=[EventType.PARKED])
    of_product = await add_hook(connection, receiver.url + "/product", product_id=B)
    none = await add_hook(connection, receiver.url + "/none", product_id=new_product_id())
    async with relaying(environment):
        for hook_id in (typed, of_product, none):
            await eventually(partial(_is_at, connection, hook_id, 2))
        more = order(B)
        await decide(connection, more)
        for hook_id in (typed, of_product, none):
            await eventually(partial(_is_at, connection, hook_id, 3))
    got = {
        name: [it.events[0]["id"] for it in receiver.requests if it.target.endswith(name)]
        for name in ("typed", "product", "none")
    }
    assert got == {"typed": [f"{parked.id}.1"], "product": [f"{failed.id}.1", f"{more.id}.1"], "none": []}


async def _is_at(connection: Connection, hook_id: str, offset: int) -> bool:
    return bool((await hook_row(connection, hook_id))["delivered"] == offset)


async def test_the_events_of_an_order_come_in_their_order(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    orders = [order(A) for _ in range(5)]
    await add_hook(connection, receiver.url)
    async with relaying(environment):
        for it in orders:
            await park_order(connection, it)
        await replay_letters(connection)
        await decide(connection, *orders)
        await eventually(lambda: len(receiver.events) == 10)
    for it in orders:
        own = [event for event in receiver.events if event["order"]["id"] == it.id]
        assert [event["sequence"] for event in own] == [1, 2]
        assert [event["type"] for event in own] == [EventType.PARKED, EventType.FAILED]


async def test_a_test_event_is_sent_and_its_result_is_told(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    secret = new_secret()
    hook_id = await add_hook(connection, receiver.url, secret=secret)
    await change_hook(connection, hook_id, "pause_reason = 'rest'")
    async with relaying(environment):
        await change_hook(connection, hook_id, "test_wanted_at = clock_timestamp()")
        [attempt] = await eventually(lambda: attempts_of(connection, hook_id))
        assert (attempt["first_offset"], attempt["status"], attempt["error"]) == (None, 204, None)
        row = await eventually(lambda: hook_row(connection, hook_id))
        assert row["test_wanted_at"] is None
        await decide(connection, order(A))
        await change_hook(connection, hook_id, "test_wanted_at = clock_timestamp()")
        await eventually(lambda: len(receiver.requests) == 2)
        await eventually(lambda: _is_tested(connection, hook_id))
        assert {it["type"] for it in receiver.events} == {"hook.test"}  # it is paused still
        Webhook(secret).verify(receiver.requests[0].body.decode(), receiver.requests[0].headers)
        await change_hook(connection, hook_id, "pause_reason = NULL")
        await eventually(lambda: len(receiver.requests) == 3)


async def _is_tested(connection: Connection, hook_id: str) -> bool:
    return (await hook_row(connection, hook_id))["test_wanted_at"] is None


async def test_a_hook_that_may_not_be_sent_to_says_why(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    await decide(connection, order(A))
    hook_id = await add_hook(connection, receiver.url + "?token=hunter2")
    async with relaying(environment, allow_private_addresses=False) as relay:
        row = await eventually(lambda: _failing(connection, hook_id))
        assert row["last_error"] == "the URL must begin with https://"
        assert row["delivered"] == 0
        assert "hunter2" not in relay.log()
    assert receiver.connections == 0


async def _failing(connection: Connection, hook_id: str) -> Any:
    row = await hook_row(connection, hook_id)
    return row if row["failing_since"] else None
