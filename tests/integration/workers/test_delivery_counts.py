"""What the broker counts towards the delivery limit. Holding a batch relies on it."""

from collections.abc import Awaitable, Callable

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from pipeline.contract import topology
from tests.support.brokers.broker import plain_channel, send
from tests.support.time.conditions import eventually

QUEUE = topology.ORDERS_ACCEPTED_QUEUE


async def nack(message: AbstractIncomingMessage) -> None:
    await message.nack(requeue=True)


async def reject(message: AbstractIncomingMessage) -> None:
    await message.reject(requeue=True)


async def close_the_channel(message: AbstractIncomingMessage) -> None:
    await message.channel.close()


async def hang_up(message: AbstractIncomingMessage) -> None:
    await message.channel.connection.close()


@pytest.mark.parametrize("give_back", [nack, reject, close_the_channel, hang_up])
async def test_p1_whichever_way_a_message_is_given_back_that_counts_once_at_most(
    amqp_url: str, give_back: Callable[[AbstractIncomingMessage], Awaitable[None]]
) -> None:
    """On RabbitMQ 3.10, each of the four counts once. Later releases do not count a nack."""
    async with plain_channel(amqp_url) as channel:
        await topology.declare_accepted(channel)
        await send(channel, topology.ORDERS_EXCHANGE, topology.ORDER_ACCEPTED, b"[]")
    counts = []
    for _ in range(3):
        message = await get(amqp_url)
        counts.append(int(str(message.headers.get("x-delivery-count", 0))))
        await give_back(message)
    print(give_back.__name__, counts)
    assert all(count <= times for times, count in enumerate(counts))


async def get(amqp_url: str) -> AbstractIncomingMessage:
    """The next message, on a new connection."""
    connection = await aio_pika.connect(amqp_url)
    queue = await (await connection.channel()).get_queue(QUEUE, ensure=False)

    async def there() -> AbstractIncomingMessage | None:
        return await queue.get(fail=False)

    message = await eventually(there)
    assert message is not None
    return message
