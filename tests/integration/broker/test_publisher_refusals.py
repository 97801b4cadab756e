"""A broker that refuses messages: full queues, refusing channels, and a fault of the broker (P8, P12)."""

import pytest
from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractQueue
from aiormq.exceptions import DeliveryError
from pamqp.commands import Basic
from structlog.testing import capture_logs

from pipeline.broker import channel_replacement
from pipeline.broker import publisher as publisher_module
from pipeline.broker.publisher import Outcome, Publisher
from pipeline.broker.publishing_channels import LOOKING_CHANNEL
from pipeline.broker.refusal_report import RefusalReport
from pipeline.process.health import Health
from tests.support.brokers.broker import broker_settings, plain_channel, running_task, take
from tests.support.brokers.publishers import EXCHANGE, QUEUE, publish
from tests.support.data.metrics import grown, sample
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


async def test_p8_a_full_queue_is_a_refusal(amqp_url: str) -> None:
    publisher = Publisher(broker_settings(amqp_url), Health("test", "publisher"), "publisher", declare)
    async with running_task(publisher.run()):
        await eventually(lambda: publisher.is_open)

        async def is_full() -> bool:  # a quorum queue accepts a few messages past its limit
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
        assert await publisher.look() is None  # as without a broker; it does not end the process
        assert await publish(publisher) is Outcome.CONFIRMED
        assert not tasks[0].done()


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

                async def is_told() -> bool:  # because another channel is refused as well
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
    """A single channel may refuse while the queue would not; see tests/cluster/test_publisher.py."""
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
        assert max(connection.channels) <= 2  # the broker allows channel numbers up to 2,047

        async def starts_again() -> bool:  # the first message may be confirmed on the channel that was just replaced
            await (await channel.get_queue(QUEUE)).purge()
            return await _is_confirmed(publisher) and publisher._channel.state.replaced == 0  # type: ignore[union-attr]

        await eventually(starts_again)
        assert publisher._connection.transport.connection is connection


async def _is_confirmed(publisher: Publisher) -> bool:
    return await publish(publisher) is Outcome.CONFIRMED
