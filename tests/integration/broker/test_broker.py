"""keep_connected: faults between the start of a connection and the start of its session."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractQueue

from pipeline.broker import batches
from pipeline.broker import connection as broker
from pipeline.broker.batches import BatchConsumer
from pipeline.broker.connection import keep_connected, when_lost
from pipeline.broker.deliveries import BatchLimits
from pipeline.broker.publisher import Outcome, Publisher
from pipeline.contract import topology
from pipeline.process.health import Health
from pipeline.process.settings import PipelineSettings
from tests.support.brokers.broker import broker_settings, running_task
from tests.support.faults.faults import Proxy, proxy_to
from tests.support.time.conditions import eventually

Client = TypeVar("Client", Publisher, BatchConsumer)
Declare = Callable[[AbstractChannel], Awaitable[AbstractQueue]]


async def lose(proxy: Proxy, connection: AbstractConnection) -> None:
    """Cut the connection, and wait until the client has noticed."""
    transport = connection.transport
    assert transport is not None
    proxy.cut()
    await eventually(lambda: transport.connection.is_closed)


async def test_a_connection_that_is_gone_before_its_session_opens_a_channel_is_tried_again(amqp_url: str) -> None:
    up = asyncio.Event()

    async with proxy_to(amqp_url) as proxy:

        async def session(connection: AbstractConnection) -> None:
            if proxy.connections == 1:
                await lose(proxy, connection)
            await connection.channel()
            up.set()
            await asyncio.Event().wait()

        health = Health("test", "part")
        async with (
            running_task(keep_connected(broker_settings(proxy.url(amqp_url)), health, "part", session)) as (running,),
            asyncio.timeout(10),
        ):
            await asyncio.wait([asyncio.create_task(up.wait()), running], return_when=asyncio.FIRST_COMPLETED)
        assert up.is_set()


def publisher(settings: PipelineSettings, health: Health, declare: Declare) -> Publisher:
    return Publisher(settings, health, "part", declare)


def consumer(settings: PipelineSettings, health: Health, declare: Declare) -> BatchConsumer:
    return BatchConsumer(settings, health, "part", declare, BatchLimits(10, 10_000, 10, 0.01, 60), prefetch=20)


@asynccontextmanager
async def at_a_silent_broker(
    amqp_url: str, make: Callable[[PipelineSettings, Health, Declare], Client]
) -> AsyncIterator[tuple[Client, Proxy, Health]]:
    """The process was ready. Then its connection passes nothing any more; a new connection works."""
    async with proxy_to(amqp_url) as proxy:
        health = Health("test", "part")
        client = make(broker_settings(proxy.url(amqp_url)), health, topology.declare_accepted)
        async with running_task(client.run()):
            await eventually(lambda: health.is_ready)
            proxy.forget()
            yield client, proxy, health


@pytest.mark.parametrize("make", [publisher, consumer])
async def test_a_broker_that_says_nothing_after_the_handshake_is_left_for_another(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch, make: Callable[..., Publisher | BatchConsumer]
) -> None:
    """Like a node that is cut off from its cluster: it sends heartbeats, and no declaration ever finishes."""
    monkeypatch.setattr(broker, "_ANSWER_TIMEOUT_S", 1.0)

    async with proxy_to(amqp_url) as proxy:

        async def declare(channel: AbstractChannel) -> AbstractQueue:
            if proxy.connections == 1:
                proxy.forget()
            return await topology.declare_accepted(channel)

        health = Health("test", "part")
        async with running_task(make(broker_settings(proxy.url(amqp_url)), health, declare).run()):
            await eventually(lambda: health.is_ready)
        assert proxy.connections >= 2  # more, if a declaration at the good one takes long


@pytest.mark.timeout(20)
async def test_a_consumer_leaves_a_broker_that_falls_silent(amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like a frozen node: its kernel keeps the connection, and heartbeats notice after half a minute."""
    monkeypatch.setattr(broker, "_ANSWER_TIMEOUT_S", 1.0)
    monkeypatch.setattr(batches, "_DEPTH_INTERVAL_S", 0.05)

    async with at_a_silent_broker(amqp_url, consumer) as (_, proxy, health):
        before = proxy.connections
        await eventually(lambda: proxy.connections > before and health.is_ready)


async def test_who_leaves_a_silent_broker_does_not_wait_for_its_good_bye(amqp_url: str) -> None:
    async with at_a_silent_broker(amqp_url, publisher) as (writing, proxy, _):
        outcome = await writing.publish(topology.ORDERS_EXCHANGE, topology.ORDER_ACCEPTED, b"[]", timeout_s=0.1)
        assert outcome is Outcome.UNKNOWN
        await eventually(lambda: proxy.connections == 2, broker._CLOSE_TIMEOUT_S / 2)


async def test_a_node_that_takes_connections_and_says_nothing_costs_less_where_there_is_another(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "_ONE_OF_SEVERAL_TIMEOUT_S", 1.0)
    monkeypatch.setattr(broker, "_nodes", itertools.cycle)

    async with proxy_to(amqp_url) as frozen:
        frozen.swallow()
        health = Health("test", "part")
        settings = broker_settings(f"{frozen.url(amqp_url)},{amqp_url}")
        async with running_task(publisher(settings, health, topology.declare_accepted).run()):
            await eventually(lambda: health.is_ready, broker._CONNECT_TIMEOUT_S / 2)
        assert frozen.connections == 1


async def test_a_server_that_hangs_up_during_the_handshake_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a FIN, as a load balancer without a broker does. A busy client may see it late."""
    connect = asyncio.open_connection

    async def connect_and_look_late(*args: Any, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await connect(*args, **kwargs)
        await eventually(reader.at_eof)
        return reader, writer

    monkeypatch.setattr(asyncio, "open_connection", connect_and_look_late)
    accepted: list[asyncio.StreamWriter] = []

    async def hang_up(_: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        accepted.append(client)
        client.write_eof()

    async def session(_: AbstractConnection) -> None:
        """A session that must not begin."""

    health = Health("test", "part")
    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as listener:
        settings = broker_settings(f"amqp://a:b@127.0.0.1:{listener.sockets[0].getsockname()[1]}/")
        async with running_task(keep_connected(settings, health, "part", session)):
            await eventually(lambda: len(accepted) >= 3)
        for client in accepted:
            client.transport.abort()
    assert "closed during the handshake" in str(health.summary())


async def test_a_channel_that_is_gone_before_anyone_watches_it_is_lost(amqp_url: str) -> None:
    lost_one: list[BaseException] = []

    async with proxy_to(amqp_url) as proxy:

        async def session(connection: AbstractConnection) -> None:
            channel = await connection.channel()
            if proxy.connections == 1:
                await lose(proxy, connection)
            try:
                await when_lost(connection, channel)
            except BaseException as error:
                lost_one.append(error)
                raise

        health = Health("test", "part")
        async with running_task(keep_connected(broker_settings(proxy.url(amqp_url)), health, "part", session)):
            await eventually(lambda: proxy.connections == 2)
        assert len(lost_one) >= 1


async def test_a_cancelled_session_ends_and_is_not_taken_for_a_lost_one(amqp_url: str) -> None:
    up = asyncio.Event()

    async def session(connection: AbstractConnection) -> None:
        up.set()
        await when_lost(connection, await connection.channel())

    running = asyncio.create_task(keep_connected(broker_settings(amqp_url), Health("test", "part"), "part", session))
    await up.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_p9_a_process_that_is_stopped_as_its_broker_answers_stops(amqp_url: str) -> None:
    """At any step of the handshake."""

    async def session(_: AbstractConnection) -> None:
        await asyncio.Event().wait()

    for number in range(60):
        connecting = asyncio.create_task(
            keep_connected(broker_settings(amqp_url), Health("test", "part"), "part", session)
        )
        # A different moment each time: the handshake takes some 8 ms, and its steps cannot be waited for.
        await asyncio.sleep(number / 4000)
        connecting.cancel()
        await asyncio.wait({connecting}, timeout=10)
        assert connecting.cancelled(), number


@pytest.mark.parametrize("bug", [TypeError("ours"), RuntimeError("ours too")], ids=repr)
async def test_a_bug_in_a_session_is_not_retried(amqp_url: str, bug: Exception) -> None:
    async def session(_: AbstractConnection) -> None:
        raise bug

    with pytest.raises(type(bug), match="ours"):
        await keep_connected(broker_settings(amqp_url), Health("test", "part"), "part", session)
