"""Exchanges, queues, bindings and their limits. Each process declares what it uses, at start, idempotently.

    orders_exchange ── order.accepted ──▶ orders.accepted ──(rejected, or returned too often)──▶ orders.dead
                    └─ order.created  ──▶ orders.created  ──(the same)─────────────────────────▶ orders.dead
    products_exchange ── product.* ──▶ one private queue for each ingest_api
    orders_intake_began        carries nothing. A broker without it has never had an order

What is in orders.dead is parked by persist_worker, like what the workers themselves give up on.

Every queue that holds orders is a quorum queue: a confirm means that the message is fsynced.
"""

from collections.abc import Awaitable, Callable

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractQueue
from aio_pika.exceptions import ChannelNotFoundEntity
from pamqp.common import FieldTable

ORDERS_EXCHANGE = "orders_exchange"
PRODUCTS_EXCHANGE = "products_exchange"
DEAD_EXCHANGE = "orders_dead_exchange"
INTAKE_BEGAN_EXCHANGE = "orders_intake_began"

ORDER_ACCEPTED = "order.accepted"
ORDER_CREATED = "order.created"

PRODUCT_CREATED = "product.created"
PRODUCT_UPDATED = "product.updated"
PRODUCT_DELETED = "product.deleted"
PRODUCT_SOLD_OUT = "product.sold_out"
PRODUCT_RESTOCKED = "product.restocked"

ORDERS_ACCEPTED_QUEUE = "orders.accepted"
ORDERS_CREATED_QUEUE = "orders.created"
ORDERS_DEAD_QUEUE = "orders.dead"

# A message holds a batch of orders, so the bytes bind long before the count: 2 GiB are about nine million orders.
# Past either, the broker refuses publishes, and the refusal travels back to the client as a 503.
_MAX_QUEUE_BYTES = 2 * 1024**3
_MAX_QUEUE_MESSAGES = 2_000_000
# How often a message may come back before the broker takes it for poison. The workers park poison themselves, in the
# same transaction as its neighbours, so this is the second net, and it has to be wide: each restart of a worker
# counts once for everything it had prefetched.
_DELIVERY_LIMIT = 100

_BOUNDED_QUORUM_QUEUE: FieldTable = {
    "x-queue-type": "quorum",
    "x-max-length": _MAX_QUEUE_MESSAGES,
    "x-max-length-bytes": _MAX_QUEUE_BYTES,
    "x-overflow": "reject-publish",
}
# at-least-once: the broker confirms a dead letter to itself before it forgets the original. Needs reject-publish.
_ORDER_QUEUE: FieldTable = _BOUNDED_QUORUM_QUEUE | {
    "x-delivery-limit": _DELIVERY_LIMIT,
    "x-dead-letter-exchange": DEAD_EXCHANGE,
    "x-dead-letter-strategy": "at-least-once",
}
# Behind the second net there is none. RabbitMQ 4 drops what has come back 20 times to a queue without a limit of its
# own, and 3.10 knows no value for "never": so, a number that no restarts and no outages add up to.
_DEAD_QUEUE: FieldTable = _BOUNDED_QUORUM_QUEUE | {"x-delivery-limit": 1_000_000_000}


OpenChannel = Callable[[], Awaitable[AbstractChannel]]
"""Opens a channel of the connection, in place of the one before."""


async def begin_intake(open_channel: OpenChannel) -> bool:
    """Mark the broker, before ingest_api publishes there. Returns whether it had no mark: then it has had no order."""
    channel = await open_channel()
    try:
        await channel.declare_exchange(INTAKE_BEGAN_EXCHANGE, passive=True)
    except ChannelNotFoundEntity:  # RabbitMQ has closed the channel
        channel = await open_channel()
        await channel.declare_exchange(INTAKE_BEGAN_EXCHANGE, ExchangeType.FANOUT, durable=True)
        return True
    finally:
        await channel.close()
    return False


async def declare_accepted(channel: AbstractChannel) -> AbstractQueue:
    """Where ingest_api publishes and persist_worker consumes."""
    return await _declare_order_queue(channel, ORDERS_ACCEPTED_QUEUE, ORDER_ACCEPTED)


async def declare_created(channel: AbstractChannel) -> AbstractQueue:
    """Where persist_worker publishes and product_consumer consumes."""
    return await _declare_order_queue(channel, ORDERS_CREATED_QUEUE, ORDER_CREATED)


async def declare_dead(channel: AbstractChannel) -> AbstractQueue:
    """Where the broker puts what it gives up on, and persist_worker parks it."""
    await channel.declare_exchange(DEAD_EXCHANGE, ExchangeType.TOPIC, durable=True)
    queue = await channel.declare_queue(ORDERS_DEAD_QUEUE, durable=True, arguments=dict(_DEAD_QUEUE))
    await queue.bind(DEAD_EXCHANGE, "#")
    return queue


async def declare_products(channel: AbstractChannel) -> None:
    """The exchange of product events. They are hints, so nothing is kept for who is not there."""
    await channel.declare_exchange(PRODUCTS_EXCHANGE, ExchangeType.TOPIC, durable=True)


async def declare_product_events(channel: AbstractChannel) -> AbstractQueue:
    """A private queue that gets every product event for as long as its connection lives."""
    queue = await channel.declare_queue(exclusive=True, auto_delete=True, arguments={"x-max-length": 100_000})
    await bind_product_events(channel, queue)
    return queue


async def bind_product_events(channel: AbstractChannel, queue: AbstractQueue) -> None:
    """Once more, as no one who listens is told that somebody has deleted the exchange or the binding."""
    await declare_products(channel)
    await queue.bind(PRODUCTS_EXCHANGE, "product.*")


async def _declare_order_queue(channel: AbstractChannel, name: str, routing_key: str) -> AbstractQueue:
    await channel.declare_exchange(ORDERS_EXCHANGE, ExchangeType.TOPIC, durable=True)
    await declare_dead(channel)
    queue = await channel.declare_queue(name, durable=True, arguments=dict(_ORDER_QUEUE))
    await queue.bind(ORDERS_EXCHANGE, routing_key)
    return queue
