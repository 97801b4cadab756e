"""A publisher whose connection is cut, closed, blocked or silent: outcomes stay true, and it reconnects (P1, P8)."""

import asyncio
import itertools

import aio_pika
import pamqp.frame
import pytest
from pamqp.commands import Connection as ConnectionFrames

from pipeline.broker import connection as broker
from pipeline.broker import publisher as publisher_module
from pipeline.broker.connection import BrokerLost
from pipeline.broker.publisher import Outcome
from pipeline.broker.publishing_channels import LOOKING_CHANNEL, open_channel
from tests.conftest import Servers
from tests.support.brokers.broker import Management, running_task
from tests.support.brokers.publishers import EXCHANGE, in_queue, make_publisher, publish, running_publisher
from tests.support.faults.faults import proxy_to
from tests.support.time.conditions import eventually


async def test_a_channel_of_a_connection_that_has_just_been_lost_is_a_fault_of_the_broker(amqp_url: str) -> None:
    """A look may ask for a channel before the session has noticed the loss. Any other error would end the process."""
    for is_known in (False, True):
        connection = await aio_pika.connect(amqp_url)
        assert connection.transport is not None
        await (connection.close() if is_known else connection.transport.connection.close())
        with pytest.raises(BrokerLost):
            await open_channel(connection, LOOKING_CHANNEL)


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
    """Like a node that is cut off from its cluster. A node that has confirmed a message gets the usual time."""
    monkeypatch.setattr(broker, "_ONE_OF_SEVERAL_TIMEOUT_S", 1.0)
    monkeypatch.setattr(broker, "_nodes", itertools.cycle)

    async with (
        proxy_to(amqp_url) as cut_off,
        proxy_to(amqp_url) as well,
        running_publisher(f"{cut_off.url(amqp_url)},{well.url(amqp_url)}") as publisher,
    ):
        cut_off.hold()
        async with asyncio.timeout(broker._ANSWER_TIMEOUT_S / 2):
            assert await publish(publisher) is Outcome.UNKNOWN
        await eventually(lambda: publisher.is_open)
        assert await publish(publisher) is Outcome.CONFIRMED

        well.hold()
        asking = asyncio.create_task(publish(publisher))
        done, _ = await asyncio.wait({asking}, timeout=1.5)  # the test is about this time
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
        publishing = asyncio.create_task(publisher.publish(EXCHANGE, "thing", b"[]", timeout_s=3))
        await eventually(lambda: in_queue(amqp_url, 1))
        proxy.say(ConnectionFrames.Blocked("low on disk"))
        assert await publishing is Outcome.UNKNOWN
        proxy.release()
        proxy.say(ConnectionFrames.Unblocked())
        await eventually(lambda: publisher.is_open)
        assert await publish(publisher) is Outcome.CONFIRMED
        assert proxy.connections == 1


async def test_a_connection_lost_at_any_moment_of_its_start_is_tried_again(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut after a number of bytes from the broker, with or without a closing frame in the same segment."""
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
