"""Group commit: which orders share a message, how many may wait, and which answer each gets (P1, P8, P9)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from ingest_api.intake.group_commit import Full, GroupCommit, Unavailable
from pipeline.broker.publisher import Outcome, Publisher
from pipeline.contract.orders import join_orders
from tests.support.brokers.broker import gets_back, plain_channel, running_task, take
from tests.support.brokers.publishers import EXCHANGE, QUEUE, in_queue, make_publisher, publish, running_publisher
from tests.support.data.metrics import grown, sample
from tests.support.faults.faults import Proxy, proxy_to
from tests.support.time.conditions import eventually


@asynccontextmanager
async def running_commits(publisher: Publisher, window: int = 1, **changes: float) -> AsyncIterator[GroupCommit]:
    limits = {"max_group_orders": 100, "max_group_bytes": 1000, "max_waiting_orders": 1000, "max_waiting_bytes": 10_000}
    overlap = {"overlap_orders": 1, "overlap_after_s": 0.0, "timeout_s": 5.0}
    commits = GroupCommit(publisher, EXCHANGE, "thing", **{**limits, **overlap, **changes})  # type: ignore[arg-type]
    async with AsyncExitStack() as stack:
        for _ in range(window):
            await stack.enter_async_context(running_task(commits.run()))
        yield commits


def numbered(*numbers: int) -> list[bytes]:
    return [b"%d" % it for it in numbers]


async def test_what_arrives_while_a_message_is_in_flight_is_the_next_message(amqp_url: str) -> None:
    async with (
        proxy_to(amqp_url) as proxy,
        running_publisher(proxy.url(amqp_url)) as publisher,
        running_commits(publisher) as commits,
        plain_channel(amqp_url) as channel,
    ):
        proxy.hold()
        first = commits.submit(b"1")
        await eventually(lambda: in_queue(amqp_url, 1))
        others = [commits.submit(it) for it in numbered(2, 3, 4, 5)]
        proxy.release()
        assert await first is Outcome.CONFIRMED
        assert set(await asyncio.gather(*others)) == {Outcome.CONFIRMED}
        assert [await take(channel, QUEUE) for _ in range(2)] == [b"[1]", b"[2,3,4,5]"]


@asynccontextmanager
async def one_in_flight(amqp_url: str, **changes: float) -> AsyncIterator[tuple[GroupCommit, Proxy]]:
    """Two messages may be in flight. One is, and the proxy holds its confirm back."""
    async with (
        proxy_to(amqp_url) as proxy,
        running_publisher(proxy.url(amqp_url)) as publisher,
        running_commits(publisher, window=2, **changes) as commits,
    ):
        proxy.hold()
        commits.submit(b"1")
        await eventually(lambda: in_queue(amqp_url, 1))
        yield commits, proxy


async def test_beside_one_in_flight_a_message_collects_until_it_is_large(amqp_url: str) -> None:
    async with one_in_flight(amqp_url, overlap_orders=3, overlap_after_s=60) as (commits, _):
        for number in numbered(2, 3, 4):
            commits.submit(number)
            await asyncio.sleep(0)  # a message that waits for nothing would be on its way with one order
        await eventually(lambda: in_queue(amqp_url, 2))
        async with plain_channel(amqp_url) as channel:
            assert [await take(channel, QUEUE) for _ in range(2)] == [b"[1]", b"[2,3,4]"]


async def test_a_small_message_goes_when_the_one_in_flight_has_landed(amqp_url: str) -> None:
    async with one_in_flight(amqp_url, overlap_orders=3, overlap_after_s=60) as (commits, proxy):
        second = commits.submit(b"2")
        proxy.release()
        assert await second is Outcome.CONFIRMED


async def test_a_small_message_does_not_wait_for_a_broker_that_is_slow_to_answer(amqp_url: str) -> None:
    async with one_in_flight(amqp_url, overlap_orders=3, overlap_after_s=0.05) as (commits, _):
        commits.submit(b"2")
        await eventually(lambda: in_queue(amqp_url, 2))


async def test_a_bulk_waits_for_no_message_in_flight(amqp_url: str) -> None:
    async with one_in_flight(amqp_url, overlap_orders=3, overlap_after_s=60) as (commits, _):
        commits.submit_all(numbered(2))
        await eventually(lambda: in_queue(amqp_url, 2))


async def test_p8_a_message_is_bounded_by_orders_and_by_bytes_and_keeps_their_order(amqp_url: str) -> None:
    async with (
        running_publisher(amqp_url) as publisher,
        running_commits(publisher, max_group_orders=3, max_group_bytes=10) as commits,
        plain_channel(amqp_url) as channel,
    ):
        waiting = [commits.submit(it) for it in [*numbered(1, 2, 3, 4), b"666666", b"7777", b"9" * 30, b"8"]]
        await asyncio.gather(*waiting)
        bodies = [await take(channel, QUEUE) for _ in range(5)]
        assert bodies == [b"[1,2,3]", b"[4,666666]", b"[7777]", b"[" + b"9" * 30 + b"]", b"[8]"]


async def test_p8_more_than_may_wait_is_full_and_nothing_is_taken(amqp_url: str) -> None:
    async with (
        proxy_to(amqp_url) as proxy,
        running_publisher(proxy.url(amqp_url)) as publisher,
        running_commits(publisher, max_waiting_orders=3, max_waiting_bytes=100) as commits,
        plain_channel(amqp_url) as channel,
    ):
        proxy.hold()
        waiting = [commits.submit(it) for it in numbered(1, 2)]
        with pytest.raises(Full):
            commits.submit(b"9" * 99)
        waiting.append(commits.submit(b"3"))
        with pytest.raises(Full):
            commits.submit(b"4")
        proxy.release()
        assert set(await asyncio.gather(*waiting)) == {Outcome.CONFIRMED}
        assert await commits.submit(b"4") is Outcome.CONFIRMED
        taken = b""
        while len(taken) < len(b"[1,2,3,4]"):
            taken = (taken + await take(channel, QUEUE)).replace(b"][", b",")
        assert taken == b"[1,2,3,4]"


async def test_p8_without_a_broker_nothing_is_taken() -> None:
    publisher = make_publisher("amqp://guest:guest@127.0.0.1:1/%2F")
    async with running_commits(publisher) as commits:
        with pytest.raises(Unavailable):
            commits.submit(b"1")
        await commits.drain()


async def test_a_waiter_that_gives_up_disturbs_no_other(amqp_url: str) -> None:
    async with (
        proxy_to(amqp_url) as proxy,
        running_publisher(proxy.url(amqp_url)) as publisher,
        running_commits(publisher) as commits,
        plain_channel(amqp_url) as channel,
    ):
        proxy.hold()
        waiting = [commits.submit(it) for it in numbered(1, 2, 3)]
        waiting[0].cancel()
        waiting[1].cancel()
        proxy.release()
        assert await waiting[2] is Outcome.CONFIRMED
        assert await take(channel, QUEUE) == b"[1,2,3]"
        await commits.drain()


async def test_p8_every_outcome_is_told_within_its_deadline(amqp_url: str) -> None:
    """The deadline also holds for an order that waits behind an unanswered message. It is not sent afterwards."""
    async with (
        proxy_to(amqp_url) as proxy,
        running_publisher(proxy.url(amqp_url)) as publisher,
        running_commits(publisher, timeout_s=0.5, max_group_orders=1) as commits,
    ):
        proxy.hold()
        waiting = [commits.submit(it) for it in numbered(1, 2, 3)]
        async with asyncio.timeout(1.5), grown(sample("headrace_group_commit_orders_count")) as growth:
            outcomes = await asyncio.gather(*waiting)
        assert outcomes == [Outcome.UNKNOWN, Outcome.NOT_SENT, Outcome.NOT_SENT]
        assert growth() == [1]
        await commits.drain()
        proxy.release()
        await gets_back(amqp_url, QUEUE, 1)


async def test_p9_drain_waits_for_the_last_outcome(amqp_url: str) -> None:
    async with (
        proxy_to(amqp_url) as proxy,
        running_publisher(proxy.url(amqp_url)) as publisher,
        running_commits(publisher) as commits,
    ):
        proxy.hold()
        waiting = commits.submit(b"1")
        await eventually(lambda: in_queue(amqp_url, 1))
        draining = asyncio.create_task(commits.drain())
        proxy.release()
        await draining
        assert waiting.result() is Outcome.CONFIRMED


async def test_many_in_flight_at_once_each_get_their_own_outcome(amqp_url: str) -> None:
    """Confirms come many at a time. A refusal between them must reach its own order."""
    async with running_publisher(amqp_url) as publisher, plain_channel(amqp_url) as channel:
        keys = ["thing" if number % 3 else "nobody listens" for number in range(60)]
        outcomes = await asyncio.gather(
            *(publish(publisher, join_orders([b"%d" % number]), key) for number, key in enumerate(keys))
        )
        expected = [Outcome.CONFIRMED if key == "thing" else Outcome.UNROUTABLE for key in keys]
        assert outcomes == expected
        stored = [await take(channel, QUEUE) for _ in range(expected.count(Outcome.CONFIRMED))]
        assert stored == [b"[%d]" % number for number, key in enumerate(keys) if key == "thing"]
