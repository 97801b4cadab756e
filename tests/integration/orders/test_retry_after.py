"""Retry-After of a refused order (P8): the queue's length at the measured rate, or an outage's length so far."""

import asyncio
import math
import time

import httpx
from pamqp.commands import Connection as ConnectionFrames

from tests.conftest import Servers
from tests.support.faults.faults import Proxy
from tests.support.scenes.ingest_faults import answers, behind, limit_queues, quickly
from tests.support.services.ingest import Ingest, check_problem, ingesting
from tests.support.time.conditions import eventually


def retry_after_s(response: httpx.Response, name: str) -> int:
    check_problem(response, 503, name)
    seconds = int(response.headers["retry-after"])
    assert 1 <= seconds <= 30
    return seconds


def most_s(expected_s: float) -> int:
    """The longest that a client is asked to wait for what is expected to take so long."""
    return min(30, math.ceil(1.5 * math.ceil(max(1.0, expected_s))))


async def _grows(ingest: Ingest, product_id: str, name: str, since: float) -> None:
    """An outage is expected to last as long again as it has lasted. It began after `since`."""
    assert retry_after_s(await ingest.order(product_id), name) <= most_s(time.monotonic() - since)

    async def is_long() -> bool:
        return retry_after_s(await ingest.order(product_id), name) > 3

    await eventually(is_long)
    assert time.monotonic() - since > 2, "only after 2 s of outage, more than 3 s are asked for"


async def _falls_back(ingest: Ingest, broker: Proxy, product_id: str) -> None:
    """One confirm ends an outage. The next one begins with short waits."""
    await eventually(answers(ingest, product_id, 202))
    since = time.monotonic()
    broker.go_away()
    await eventually(answers(ingest, product_id, 503))
    asked_s = retry_after_s(await ingest.order(product_id), "broker-unavailable")
    assert asked_s <= most_s(time.monotonic() - since)


async def test_p8_without_a_broker_retry_after_grows_with_the_outage(environment: dict[str, str], laptop: str) -> None:
    async with behind(environment, "AMQP_URL") as broker, ingesting(environment) as ingest:
        assert (await ingest.order(laptop)).status_code == 202
        since = time.monotonic()
        broker.go_away()
        await eventually(answers(ingest, laptop, 503))
        await _grows(ingest, laptop, "broker-unavailable", since)
        broker.come_back()
        await _falls_back(ingest, broker, laptop)


async def test_p8_with_a_blocked_broker_retry_after_grows_with_the_outage(
    environment: dict[str, str], laptop: str
) -> None:
    async with behind(environment, "AMQP_URL") as broker, ingesting(environment) as ingest:
        assert (await ingest.order(laptop)).status_code == 202
        since = time.monotonic()
        broker.say(ConnectionFrames.Blocked("low on memory"))
        await eventually(answers(ingest, laptop, 503))
        await _grows(ingest, laptop, "broker-unavailable", since)
        broker.say(ConnectionFrames.Unblocked())
        await _falls_back(ingest, broker, laptop)


async def test_p8_with_a_full_queue_retry_after_grows_until_there_is_room(
    environment: dict[str, str], servers: Servers, laptop: str
) -> None:
    async with ingesting(environment) as ingest:
        since = time.monotonic()
        await limit_queues(servers, environment["AMQP_URL"], messages=5)
        await eventually(answers(ingest, laptop, 503))
        await _grows(ingest, laptop, "overloaded", since)
        await limit_queues(servers, environment["AMQP_URL"], messages=50)
        await eventually(answers(ingest, laptop, 202))


async def test_p8_a_missed_confirm_deadline_counts_from_when_the_order_came(
    environment: dict[str, str], laptop: str
) -> None:
    async with (
        behind(environment, "AMQP_URL") as broker,
        ingesting(environment, confirm_timeout_s=2.5) as ingest,
    ):
        assert (await ingest.order(laptop)).status_code == 202
        broker.hold()
        since = time.monotonic()
        asked_s = retry_after_s(await ingest.order(laptop), "outcome-unknown")
        assert 3 <= asked_s <= most_s(time.monotonic() - since)


async def test_p8_what_waits_is_told_by_the_rate_at_which_the_broker_confirms(
    environment: dict[str, str], laptop: str
) -> None:
    """The broker takes a second for an order, and eight orders wait."""
    async with (
        behind(environment, "AMQP_URL") as broker,
        ingesting(environment, max_group_orders=8, max_waiting_orders=8) as ingest,
    ):
        since = time.monotonic()
        waiting = await _hold_orders(ingest, broker, laptop, 1)
        held_since = time.monotonic()
        await eventually(lambda: time.monotonic() - held_since > 1)
        broker.come_back()
        assert {response.status_code for response in await asyncio.gather(*waiting)} == {202}
        took_s = time.monotonic() - since
        waiting = await _hold_orders(ingest, broker, laptop, 8)
        assert 8 <= retry_after_s(await quickly(ingest.order(laptop)), "overloaded") <= most_s(8 * took_s)
        broker.come_back()
        assert {response.status_code for response in await asyncio.gather(*waiting)} == {202}


async def _hold_orders(
    ingest: Ingest, broker: Proxy, product_id: str, number: int
) -> "list[asyncio.Task[httpx.Response]]":
    """Orders that have reached the broker and are not confirmed."""
    broker.hold()
    waiting = [asyncio.create_task(ingest.order(product_id)) for _ in range(number)]

    async def are_waiting() -> bool:
        return await ingest.metric("headrace_orders_in_flight") == number

    await eventually(are_waiting)
    return waiting
