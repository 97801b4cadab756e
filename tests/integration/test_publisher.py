"""Publishing to a real broker, through faults: every outcome is told, truly, and within its deadline (P1, P8)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pamqp.frame
import pytest
from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel
from pamqp.commands import Connection as ConnectionFrames
from structlog.testing import capture_logs

from pipeline import broker
from pipeline import publisher as publisher_module
from pipeline.group_commit import Full, GroupCommit, Unavailable
from pipeline.health import Health
from pipeline.orders import join_orders
from pipeline.publisher import Outcome, Publisher
from tests.broker import Management, broker_settings, plain_channel, running_task, take, unsettled
from tests.conditions import eventually
from tests.conftest import Servers
from tests.faults import Proxy, proxy_to
from tests.metrics import grown, sample

EXCHANGE, QUEUE = "things_exchange", "things"


async def declare(channel: AbstractChannel) -> None:
    """One quorum queue that takes two messages and refuses the third."""
    await channel.declare_exchange(EXCHANGE, ExchangeType.TOPIC, durable=True)
    queue = await channel.declare_queue(
        QUEUE,
        durable=True,
        arguments={"x-queue-type": "quorum", "x-max-length": 2, "x-overflow": "reject-publish"},
    )
    await queue.bind(EXCHANGE, "thing")


async def declare_unbounded(channel: AbstractChannel) -> None:
    await channel.declare_exchange(EXCHANGE, ExchangeType.TOPIC, durable=True)
    queue = await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    await queue.bind(EXCHANGE, "thing")


def make_publisher(amqp_url: str, **changes: object) -> Publisher:
    settings = broker_settings(amqp_url, **changes)
    return Publisher(settings, Health("test", "publisher"), "publisher", declare_unbounded)


@asynccontextmanager
async def running_publisher(amqp_url: str, **changes: object) -> AsyncIterator[Publisher]:
    publisher = make_publisher(amqp_url, **changes)
    async with running_task(publisher.run()):
        await eventually(lambda: publisher.is_open)
        yield publisher


async def publish(publisher: Publisher, body: bytes = b"[]", key: str = "thing") -> Outcome:
    return await publisher.publish(EXCHANGE, key, body)


# ── one message, one outcome


async def test_p1_confirmed_means_that_it_is_in_the_queue(amqp_url: str) -> None:
    async with running_publisher(amqp_url) as publisher, plain_channel(amqp_url) as channel:
        assert await publish(publisher, b"[1]") is Outcome.CONFIRMED
        assert await take(channel, QUEUE) == b"[1]"


async def test_p1_a_message_is_persistent_and_says_its_schema_and_size(amqp_url: str) -> None:
    async with running_publisher(amqp_url) as publisher, plain_channel(amqp_url) as channel:
        await publisher.publish(EXCHANGE, "thing", b"[1,2]", orders=2)
        queue = await channel.get_queue(QUEUE)
        message = await queue.get()
        assert message is not None
        assert {"schema": 1, "orders": 2}.items() <= message.headers.items()
        assert message.delivery_mode == 2
        await message.ack()


async def test_p1_no_binding_is_unroutable_and_spoils_nothing(amqp_url: str) -> None:
    async with running_publisher(amqp_url) as publisher:
        assert await publish(publisher, key="nobody listens") is Outcome.UNROUTABLE
        assert await publish(publisher) is Outcome.CONFIRMED


async def test_p8_a_full_queue_is_a_refusal(amqp_url: str) -> None:
    publisher = Publisher(broker_settings(amqp_url), Health("test", "publisher"), "publisher", declare)
    async with running_task(publisher.run()):
        await eventually(lambda: publisher.is_open)

        async def is_full() -> bool:  # a quorum queue lets a few in past its limit
            return await publish(publisher) is Outcome.REFUSED

        with capture_logs() as logs:
            await eventually(is_full)
            assert await publish(publisher) is Outcome.REFUSED
        assert publisher.is_open
        assert len([it for it in logs if "a queue is full" in it["event"]]) == 1


async def test_p8_never_connected_is_not_sent() -> None:
    publisher = make_publisher("amqp://guest:guest@127.0.0.1:1/%2F")
    async with running_task(publisher.run()):
        assert await publish(publisher) is Outcome.NOT_SENT


async def test_p1_a_swallowed_confirm_is_unknown_within_the_deadline(amqp_url: str) -> None:
    async with proxy_to(amqp_url) as proxy, running_publisher(proxy.url(amqp_url)) as publisher:
        proxy.hold()
        async with asyncio.timeout(2):
            assert await publisher.publish(EXCHANGE, "thing", b"[]", timeout_s=0.2) is Outcome.UNKNOWN
        assert not publisher.is_open
        proxy.release()

        async def is_back() -> bool:
            return await publish(publisher) is Outcome.CONFIRMED

        await eventually(is_back)


async def test_p1_a_connection_cut_before_the_confirm_is_unknown(amqp_url: str) -> None:
    async with proxy_to(amqp_url) as proxy, running_publisher(proxy.url(amqp_url)) as publisher:
        proxy.hold()
        publishing = [asyncio.create_task(publish(publisher)) for _ in range(3)]
        await eventually(lambda: _in_queue(amqp_url, 3))
        proxy.cut()
        proxy.release()
        async with asyncio.timeout(2):
            assert set(await asyncio.gather(*publishing)) == {Outcome.UNKNOWN}
        await eventually(lambda: publisher.is_open)
        assert await publish(publisher) is Outcome.CONFIRMED


async def _in_queue(amqp_url: str, count: int) -> bool:
    return await unsettled(amqp_url, QUEUE) == count


async def test_a_connection_that_the_broker_closes_is_replaced(amqp_url: str, servers: Servers) -> None:
    async with running_publisher(amqp_url) as publisher, Management(servers.rabbitmq_api, amqp_url) as management:
        await management.start_over()

        async def is_back() -> bool:
            return await publish(publisher) is Outcome.CONFIRMED

        await eventually(is_back)


async def test_a_channel_that_the_broker_closes_is_replaced(amqp_url: str) -> None:
    async with running_publisher(amqp_url) as publisher:
        assert await publisher.publish("no such exchange", "thing", b"[]") is Outcome.UNKNOWN
        await eventually(lambda: publisher.is_open)
        assert await publish(publisher) is Outcome.CONFIRMED


async def delete_the_queue(channel: AbstractChannel) -> None:
    await channel.queue_delete(QUEUE)


async def remove_the_binding(channel: AbstractChannel) -> None:
    await (await channel.get_queue(QUEUE, ensure=False)).unbind(EXCHANGE, "thing")


async def delete_the_exchange(channel: AbstractChannel) -> None:
    await channel.exchange_delete(EXCHANGE)


@pytest.mark.parametrize(
    ("destroy", "refusal"),
    [
        (delete_the_queue, Outcome.UNROUTABLE),
        (remove_the_binding, Outcome.UNROUTABLE),
        (delete_the_exchange, Outcome.UNKNOWN),  # the broker closes the channel, which says nothing of a message
    ],
)
async def test_p8_what_somebody_deletes_at_the_broker_is_declared_again(
    amqp_url: str, destroy: Callable[[AbstractChannel], Awaitable[None]], refusal: Outcome
) -> None:
    """Nobody tells a publisher, so the first message pays for it, and it is told the truth."""
    async with running_publisher(amqp_url) as publisher, plain_channel(amqp_url) as channel:
        for _ in range(2):
            assert await publish(publisher, b"[1]") is Outcome.CONFIRMED
            assert await take(channel, QUEUE) == b"[1]"
            await destroy(channel)
            assert await publish(publisher, b"[2]") is refusal
            await eventually(lambda: _confirms(publisher))
            assert await take(channel, QUEUE) == b"[3]"


async def _confirms(publisher: Publisher) -> bool:
    return await publish(publisher, b"[3]") is Outcome.CONFIRMED


async def test_p8_however_much_is_unroutable_all_is_declared_once_a_second(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "_BLOCKED_INTERVAL_S", 0.01)
    loop = asyncio.get_running_loop()
    redeclared = sample("headrace_broker_redeclarations_total", connection="publisher")
    async with running_publisher(amqp_url) as publisher, grown(redeclared) as growth:
        began = loop.time()

        async def is_refused_for_long() -> bool:
            assert await publish(publisher, key="nobody listens") is Outcome.UNROUTABLE
            return loop.time() > began + 2.5

        await eventually(is_refused_for_long)
        assert 2 <= growth()[0] <= 1 + (loop.time() - began)


async def test_p8_what_cannot_be_declared_again_is_told_and_tried_until_it_can(amqp_url: str) -> None:
    """Somebody has put another queue of that name in the place of ours."""
    async with running_publisher(amqp_url) as publisher, plain_channel(amqp_url) as channel:
        await channel.queue_delete(QUEUE)
        await channel.declare_queue(QUEUE, durable=True)
        assert await publish(publisher) is Outcome.UNROUTABLE
        await eventually(lambda: "PRECONDITION_FAILED" in str(publisher._health.summary()))
        assert not publisher._health.is_ready
        assert await publish(publisher) is Outcome.NOT_SENT
        await channel.queue_delete(QUEUE)
        await eventually(lambda: _confirms(publisher))
        assert publisher._health.is_ready


async def test_p8_a_blocked_connection_is_not_sent_at_once_and_open_again_when_unblocked(amqp_url: str) -> None:
    async with proxy_to(amqp_url) as proxy, running_publisher(proxy.url(amqp_url)) as publisher:
        proxy.say(ConnectionFrames.Blocked("low on memory"))
        await eventually(lambda: not publisher.is_open)
        assert await publish(publisher) is Outcome.NOT_SENT
        proxy.say(ConnectionFrames.Unblocked())
        await eventually(lambda: publisher.is_open)
        assert await publish(publisher) is Outcome.CONFIRMED
        assert proxy.connections == 1


async def test_a_blocked_connection_is_not_ready(amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher_module, "_BLOCKED_INTERVAL_S", 0.01)
    async with proxy_to(amqp_url) as proxy, running_publisher(proxy.url(amqp_url)) as publisher:
        health = publisher._health
        assert health.is_ready
        proxy.say(ConnectionFrames.Blocked("low on memory"))
        await eventually(lambda: "blocked by the broker: memory or disk alarm" in str(health.summary()))
        assert not health.is_ready
        proxy.say(ConnectionFrames.Unblocked())
        await eventually(lambda: health.is_ready)
        assert proxy.connections == 1


async def test_p8_a_publish_that_is_blocked_on_its_way_is_unknown_and_keeps_the_connection(amqp_url: str) -> None:
    async with proxy_to(amqp_url) as proxy, running_publisher(proxy.url(amqp_url)) as publisher:
        proxy.hold()
        publishing = asyncio.create_task(publisher.publish(EXCHANGE, "thing", b"[]", timeout_s=0.5))
        await eventually(lambda: _in_queue(amqp_url, 1))
        proxy.say(ConnectionFrames.Blocked("low on disk"))
        assert await publishing is Outcome.UNKNOWN
        proxy.release()
        proxy.say(ConnectionFrames.Unblocked())
        await eventually(lambda: publisher.is_open)
        assert await publish(publisher) is Outcome.CONFIRMED
        assert proxy.connections == 1


async def test_the_broker_is_told_how_soon_to_miss_us(amqp_url: str) -> None:
    """60 s, the client's default, takes three minutes to notice a broker that is gone."""
    async with running_publisher(amqp_url, amqp_heartbeat_s=7) as publisher:
        assert publisher._channel is not None
        assert publisher._channel.connection.connection_tune.heartbeat == 7


# ── the connection, lost at every moment of its life


async def test_a_connection_lost_at_any_moment_of_its_start_is_tried_again(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut after so and so many bytes from the broker, without a word or with a reason in the same segment."""
    monkeypatch.setattr(broker, "backoff_s", lambda attempt: 0.001)
    async with proxy_to(amqp_url) as proxy, running_publisher(proxy.url(amqp_url)):
        whole = proxy.sent_bytes
    moments = [(cut_after, words) for cut_after in range(whole, 0, -29) for words in (b"", _CLOSING_WORDS)]
    lanes = (moments[start::6] for start in range(6))
    await asyncio.gather(*(_survives_all(amqp_url, lane) for lane in lanes))


_CLOSING_WORDS = pamqp.frame.marshal(ConnectionFrames.Close(320, "CONNECTION_FORCED", 0, 0), 0)


async def _survives_all(amqp_url: str, moments: list[tuple[int, bytes]]) -> None:
    for cut_after, last_words in moments:
        await _survives(amqp_url, cut_after, last_words)


async def _survives(amqp_url: str, cut_after: int, last_words: bytes) -> None:
    async with proxy_to(amqp_url) as proxy:
        proxy.cut_after_bytes, proxy.last_words = cut_after, last_words
        publisher = make_publisher(proxy.url(amqp_url))
        async with running_task(publisher.run()):
            await eventually(lambda: proxy.connections > 1)
            proxy.cut_after_bytes = None
            await eventually(lambda: publisher.is_open)


# ── group commit


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
        await eventually(lambda: _in_queue(amqp_url, 1))
        others = [commits.submit(it) for it in numbered(2, 3, 4, 5)]
        proxy.release()
        assert await first is Outcome.CONFIRMED
        assert set(await asyncio.gather(*others)) == {Outcome.CONFIRMED}
        assert [await take(channel, QUEUE) for _ in range(2)] == [b"[1]", b"[2,3,4,5]"]


@asynccontextmanager
async def one_in_flight(amqp_url: str, **changes: float) -> AsyncIterator[tuple[GroupCommit, Proxy]]:
    """Two messages may be in flight; one is, and has no answer before the proxy lets it through."""
    async with (
        proxy_to(amqp_url) as proxy,
        running_publisher(proxy.url(amqp_url)) as publisher,
        running_commits(publisher, window=2, **changes) as commits,
    ):
        proxy.hold()
        commits.submit(b"1")
        await eventually(lambda: _in_queue(amqp_url, 1))
        yield commits, proxy


async def test_beside_one_in_flight_a_message_collects_until_it_is_large(amqp_url: str) -> None:
    async with one_in_flight(amqp_url, overlap_orders=3, overlap_after_s=60) as (commits, _):
        for number in numbered(2, 3, 4):
            commits.submit(number)
            await asyncio.sleep(0)  # a message that waits for nothing would be on its way with one order
        await eventually(lambda: _in_queue(amqp_url, 2))
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
        await eventually(lambda: _in_queue(amqp_url, 2))


async def test_a_bulk_waits_for_no_message_in_flight(amqp_url: str) -> None:
    async with one_in_flight(amqp_url, overlap_orders=3, overlap_after_s=60) as (commits, _):
        commits.submit_all(numbered(2))
        await eventually(lambda: _in_queue(amqp_url, 2))


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
        taken = [await take(channel, QUEUE) for _ in range(await unsettled(amqp_url, QUEUE))]
        assert b"".join(taken).replace(b"][", b",") == b"[1,2,3,4]"


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
    """Also that of an order which waits behind a message without an answer, and it is not sent any more."""
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
        assert await unsettled(amqp_url, QUEUE) == 1


async def test_p9_drain_waits_for_the_last_outcome(amqp_url: str) -> None:
    async with (
        proxy_to(amqp_url) as proxy,
        running_publisher(proxy.url(amqp_url)) as publisher,
        running_commits(publisher) as commits,
    ):
        proxy.hold()
        waiting = commits.submit(b"1")
        await eventually(lambda: _in_queue(amqp_url, 1))
        draining = asyncio.create_task(commits.drain())
        proxy.release()
        await draining
        assert waiting.result() is Outcome.CONFIRMED


async def test_many_in_flight_at_once_each_get_their_own_outcome(amqp_url: str) -> None:
    """Confirms come many at a time; a refusal in between must not be taken for its neighbour's."""
    async with running_publisher(amqp_url) as publisher, plain_channel(amqp_url) as channel:
        keys = ["thing" if number % 3 else "nobody listens" for number in range(60)]
        outcomes = await asyncio.gather(
            *(publish(publisher, join_orders([b"%d" % number]), key) for number, key in enumerate(keys))
        )
        expected = [Outcome.CONFIRMED if key == "thing" else Outcome.UNROUTABLE for key in keys]
        assert outcomes == expected
        stored = [await take(channel, QUEUE) for _ in range(expected.count(Outcome.CONFIRMED))]
        assert stored == [b"[%d]" % number for number, key in enumerate(keys) if key == "thing"]
