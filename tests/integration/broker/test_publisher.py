"""Publishing to a real broker, through faults: every outcome is told, truly, and within its deadline (P1, P8)."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import aio_pika
import pamqp.frame
import pytest
from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractQueue
from aiormq.exceptions import DeliveryError
from pamqp.commands import Basic
from pamqp.commands import Connection as ConnectionFrames
from structlog.testing import capture_logs

from pipeline.broker import channel_replacement
from pipeline.broker import connection as broker
from pipeline.broker import publisher as publisher_module
from pipeline.broker.connection import BrokerLost
from pipeline.broker.publisher import Outcome, Publisher
from pipeline.broker.publishing_channels import LOOKING_CHANNEL, open_channel
from pipeline.broker.refusal_report import RefusalReport
from pipeline.process.health import Health
from tests.conftest import Servers
from tests.support.brokers.broker import Management, broker_settings, plain_channel, running_task, take
from tests.support.brokers.publishers import EXCHANGE, QUEUE, in_queue, make_publisher, publish, running_publisher
from tests.support.data.metrics import grown, sample
from tests.support.faults.faults import proxy_to
from tests.support.time.conditions import eventually


async def declare(channel: AbstractChannel) -> None:
    """One quorum queue that takes two messages and refuses the third."""
    await channel.declare_exchange(EXCHANGE, ExchangeType.TOPIC, durable=True)
    queue = await channel.declare_queue(
        QUEUE,
        durable=True,
        arguments={"x-queue-type": "quorum", "x-max-length": 2, "x-overflow": "reject-publish"},
    )
    await queue.bind(EXCHANGE, "thing")


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


async def declare_with_its_queue(channel: AbstractChannel) -> AbstractQueue:
    await declare(channel)
    return await channel.get_queue(QUEUE, ensure=False)


async def declared(channel: AbstractChannel) -> AbstractQueue:
    await declare(channel)
    return await channel.declare_queue(QUEUE, passive=True)


async def test_p8_a_look_takes_no_number_that_another_line_may_need(amqp_url: str) -> None:
    publisher = Publisher(broker_settings(amqp_url), Health("test", "publisher"), "publisher", declared)
    async with running_task(publisher.run()) as tasks:
        await eventually(lambda: publisher.is_open)
        assert await publish(publisher) is Outcome.CONFIRMED
        assert await publisher.look() is not None
        connection = publisher._connection
        assert connection is not None
        assert connection.transport is not None
        assert {2, 3}.isdisjoint(connection.transport.connection.channels)
        assert publisher._looking is not None
        await publisher._looking.close()
        await connection.channel(LOOKING_CHANNEL)
        assert await publisher.look() is None  # as if there were no broker, and it ends nothing
        assert await publish(publisher) is Outcome.CONFIRMED
        assert not tasks[0].done()


async def test_a_channel_of_a_connection_that_has_just_been_lost_is_a_fault_of_the_broker(amqp_url: str) -> None:
    """A look may ask for one before the publisher's session has noticed. Anything else would end the process."""
    for is_known in (False, True):
        connection = await aio_pika.connect(amqp_url)
        assert connection.transport is not None
        await (connection.close() if is_known else connection.transport.connection.close())
        with pytest.raises(BrokerLost):
            await open_channel(connection, LOOKING_CHANNEL)


async def test_p12_a_queue_that_refuses_while_it_is_empty_is_a_fault_of_the_broker(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P12: readiness, log and metric say so until a message is taken again, which nobody else needs to send.

    RabbitMQ does this when its quorum queues are down; see tests/chaos/test_broker_fails.py. Here the queue is full,
    and said to be empty.
    """

    async def nothing(*_: object) -> int:
        return 0

    monkeypatch.setattr(RefusalReport, "_depth", nothing)
    health = Health("test", "publisher")
    publisher = Publisher(broker_settings(amqp_url), health, "publisher", declare_with_its_queue)
    faulty = sample("headrace_broker_refuses_with_room", connection="publisher")
    async with running_task(publisher.run()), plain_channel(amqp_url) as channel:
        await eventually(lambda: publisher.is_open)
        async with grown(faulty) as growth:

            async def is_broken() -> bool:
                return await publish(publisher) is Outcome.BROKEN

            with capture_logs() as logs:
                await eventually(is_broken)

                async def is_told() -> bool:  # as another channel is refused as well
                    return await is_broken() and not health.is_ready

                await eventually(is_told)
            assert "although things has room" in str(health.summary()["parts"])
            assert growth() == [1]
            assert [it["queue"] for it in logs if "although the queue has room" in it["event"]] == [QUEUE]
            assert [it for it in logs if "a queue is full" in it["event"]] == []
            assert await publish(publisher) is Outcome.BROKEN
            await (await channel.get_queue(QUEUE)).purge()
            await eventually(lambda: health.is_ready)
            assert growth() == [0]
            assert await take(channel, QUEUE) == b"[]"
            assert await publish(publisher) is Outcome.CONFIRMED


async def test_p12_a_channel_that_alone_refuses_is_no_fault_of_the_broker(amqp_url: str) -> None:
    """P12: nobody is told to restart a broker that works. P8: clients hear that it is not available until another
    channel, which is asked by itself, takes the next message.

    A cluster has such channels after a leader has gone; see tests/cluster/test_publisher.py.
    """

    async def refuse(*_: object, **__: object) -> None:
        raise DeliveryError(None, Basic.Nack())

    health = Health("test", "publisher")
    publisher = Publisher(broker_settings(amqp_url), health, "publisher", declare_with_its_queue)
    faulty = sample("headrace_broker_refuses_with_room", connection="publisher")
    async with running_task(publisher.run()):
        await eventually(lambda: publisher.is_open)
        assert publisher._channel is not None
        publisher._channel.underlay.basic_publish = refuse  # type: ignore[method-assign]
        outcomes: list[Outcome] = []

        async def is_confirmed() -> bool:
            outcomes.append(await publish(publisher))
            assert health.is_ready
            return outcomes[-1] is Outcome.CONFIRMED

        async with grown(faulty) as growth:
            with capture_logs() as logs:
                await eventually(is_confirmed)
            assert growth() == [0]
        assert set(outcomes) == {Outcome.REFUSED, Outcome.BROKEN, Outcome.CONFIRMED}
        assert "restart" not in str(logs)


async def test_p8_a_full_queue_whose_depth_is_known_is_no_fault_of_the_broker(amqp_url: str) -> None:
    health = Health("test", "publisher")
    publisher = Publisher(broker_settings(amqp_url), health, "publisher", declare_with_its_queue)
    async with running_task(publisher.run()), plain_channel(amqp_url) as channel:
        await eventually(lambda: publisher.is_open)

        async def was_looked_at() -> bool:
            return await publish(publisher) is Outcome.REFUSED and publisher._report.refusals.is_full

        with capture_logs() as logs:
            await eventually(was_looked_at)
            for _ in range(20):
                assert await publish(publisher) is Outcome.REFUSED
        assert health.is_ready
        assert [it["log_level"] for it in logs if "a queue is full" in it["event"]] == ["warning"]
        await (await channel.get_queue(QUEUE)).purge()
        await eventually(lambda: _is_confirmed(publisher))


async def test_p8_while_a_queue_is_full_channels_come_and_go_and_none_is_left_over(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel may be all that refuses; see tests/cluster/test_publisher.py."""
    monkeypatch.setattr(channel_replacement, "FIRST_REFUSED_S", 0.0)
    monkeypatch.setattr(publisher_module, "_BLOCKED_INTERVAL_S", 0.02)
    publisher = Publisher(broker_settings(amqp_url), Health("test", "publisher"), "publisher", declare)
    async with running_task(publisher.run()), plain_channel(amqp_url) as channel:
        await eventually(lambda: publisher.is_open)
        seen: set[object] = set()

        async def have_been_replaced() -> bool:
            if await publish(publisher) is Outcome.REFUSED:
                seen.add(publisher._channel)
            return len(seen) >= 5

        await eventually(have_been_replaced)
        assert publisher._channel is not None
        assert publisher._channel.state.replaced >= 4
        assert publisher._connection is not None
        assert publisher._connection.transport is not None
        connection = publisher._connection.transport.connection
        assert publisher.is_open
        await eventually(lambda: len(connection.channels.keys() - {0}) == 1)
        assert max(connection.channels) <= 2  # the broker knows no number past 2,047

        await (await channel.get_queue(QUEUE)).purge()
        await eventually(lambda: _is_confirmed(publisher))
        assert publisher._channel.state.replaced == 0
        assert publisher._connection.transport.connection is connection


async def _is_confirmed(publisher: Publisher) -> bool:
    return await publish(publisher) is Outcome.CONFIRMED


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


async def test_p8_a_node_that_takes_messages_and_confirms_none_is_left_soon_for_another(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is cut off from its cluster. Once it has confirmed one it gets the time of everybody."""
    monkeypatch.setattr(broker, "_ONE_OF_SEVERAL_TIMEOUT_S", 0.2)
    monkeypatch.setattr(broker, "_nodes", itertools.cycle)

    async with (
        proxy_to(amqp_url) as cut_off,
        proxy_to(amqp_url) as well,
        running_publisher(f"{cut_off.url(amqp_url)},{well.url(amqp_url)}") as publisher,
    ):
        cut_off.hold()
        async with asyncio.timeout(2):
            assert await publish(publisher) is Outcome.UNKNOWN
        await eventually(lambda: publisher.is_open)
        assert await publish(publisher) is Outcome.CONFIRMED

        well.hold()
        asking = asyncio.create_task(publish(publisher))
        done, _ = await asyncio.wait({asking}, timeout=1)  # the time itself is what it is about
        assert not done
        well.release()
        assert await asking is Outcome.CONFIRMED


async def test_p1_a_connection_cut_before_the_confirm_is_unknown(amqp_url: str) -> None:
    async with proxy_to(amqp_url) as proxy, running_publisher(proxy.url(amqp_url)) as publisher:
        proxy.hold()
        publishing = [asyncio.create_task(publish(publisher)) for _ in range(3)]
        await eventually(lambda: in_queue(amqp_url, 3))
        proxy.cut()
        proxy.release()
        async with asyncio.timeout(2):
            assert set(await asyncio.gather(*publishing)) == {Outcome.UNKNOWN}
        await eventually(lambda: publisher.is_open)
        assert await publish(publisher) is Outcome.CONFIRMED


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
        await eventually(lambda: in_queue(amqp_url, 1))
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
        assert publisher._channel.underlay.connection.connection_tune.heartbeat == 7


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
