"""The supervisor's check of its broker: a check that fails does not disturb later ones."""

import shutil
from pathlib import Path

import aiormq
import aiormq.abc
import pytest
from aiormq.connection import Connection

from stack.servers.broker_fault import QUEUE, BrokerFault
from tests.support.brokers.broker import plain_channel


async def test_a_connection_without_a_channel_is_closed(
    amqp_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections: list[aiormq.abc.AbstractConnection] = []
    connect = aiormq.connect

    async def remember(address: str) -> aiormq.abc.AbstractConnection:
        connections.append(await connect(address))
        return connections[-1]

    async def fail(*_: object, **__: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(aiormq, "connect", remember)
    with monkeypatch.context() as failing:
        failing.setattr(Connection, "channel", fail)
        broker = BrokerFault(amqp_url, tmp_path)
        assert await broker.look() is None
    assert connections[0].is_closed
    assert await broker.look() is None
    assert not connections[1].is_closed
    await connections[1].close()


async def test_the_queue_that_it_asks_is_declared_again_when_somebody_has_deleted_it(
    amqp_url: str, tmp_path: Path
) -> None:
    """A message without a queue is confirmed too, so it would hide the fault."""
    broker = BrokerFault(amqp_url, tmp_path)
    async with plain_channel(amqp_url) as channel:
        assert await broker.look() is None
        await channel.queue_delete(QUEUE)
        assert await broker.look() is None
        assert await broker.look() is None
        queue = await channel.get_queue(QUEUE)
        assert await queue.get() is not None
    await broker.close()


async def test_a_disk_that_cannot_be_looked_at_is_no_reason_to_restart(
    amqp_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise aiormq.exceptions.DeliveryError(None, aiormq.spec.Basic.Nack())

    monkeypatch.setattr(BrokerFault, "_publish", refuse)
    assert await BrokerFault(amqp_url, tmp_path).look() is not None or shutil.disk_usage(tmp_path).free < 100_000_000
    assert await BrokerFault(amqp_url, tmp_path / "gone").look() is None
