"""Exchanges, queues, bindings and their limits. Each process declares what it uses, at start, idempotently.

    orders_exchange ── order.accepted ──▶ orders.accepted ──(rejected, or returned too often)──▶ orders.dead
                    ├─ order.created  ──▶ orders.created  ──(the same)─────────────────────────▶ orders.dead
                    └─ order.cancel_requested ──▶ orders.cancel_requested ──(the same)─────────▶ orders.dead
    products_exchange ── product.* ──▶ one private queue for each ingest_api
    order_events      ── order.processed, order.failed, … ──▶ queues of the services that come after
    orders_intake_began        carries nothing. ingest_api declares it before it first publishes

persist_worker parks the messages of orders.dead, as the workers park poison themselves.

Every queue that holds orders is a quorum queue: a confirm means that the message is fsynced.
"""

from collections.abc import Awaitable, Callable, Mapping

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractQueue
from aio_pika.exceptions import ChannelNotFoundEntity
from pamqp.common import FieldTable

from pipeline.contract.stages import Stage

ORDERS_EXCHANGE = "orders_exchange"
PRODUCTS_EXCHANGE = "products_exchange"
EVENTS_EXCHANGE = "order_events"
DEAD_EXCHANGE = "orders_dead_exchange"
INTAKE_BEGAN_EXCHANGE = "orders_intake_began"

ORDER_ACCEPTED = "order.accepted"
ORDER_CREATED = "order.created"
ORDER_CANCEL_REQUESTED = "order.cancel_requested"

PRODUCT_CREATED = "product.created"
PRODUCT_UPDATED = "product.updated"
PRODUCT_DELETED = "product.deleted"
PRODUCT_SOLD_OUT = "product.sold_out"
PRODUCT_RESTOCKED = "product.restocked"

ORDERS_ACCEPTED_QUEUE = "orders.accepted"
ORDERS_CREATED_QUEUE = "orders.created"
# A queue of its own: to a product_consumer of the release before, a cancellation would be an order that it cannot read.
ORDERS_CANCEL_REQUESTED_QUEUE = "orders.cancel_requested"
ORDERS_DEAD_QUEUE = "orders.dead"

KEYS: Mapping[str, str] = {
    Stage.PERSIST: ORDER_ACCEPTED,
    Stage.STOCK: ORDER_CREATED,
    Stage.CANCEL: ORDER_CANCEL_REQUESTED,
}
"""The routing key of the messages that a stage works on."""
QUEUES: Mapping[Stage, str] = {
    Stage.PERSIST: ORDERS_ACCEPTED_QUEUE,
    Stage.STOCK: ORDERS_CREATED_QUEUE,
    Stage.CANCEL: ORDERS_CANCEL_REQUESTED_QUEUE,
}
"""The queue that holds them."""

# A message holds a batch of orders, so the bytes bind long before the count: 2 GiB are about nine million orders.
# Past either, the broker refuses publishes, and the refusal travels back to the client as a 503.
_MAX_QUEUE_BYTES = 2 * 1024**3
_MAX_QUEUE_MESSAGES = 2_000_000
# Redeliveries of a message before the broker takes it for poison. The workers park poison themselves, in the same
# transaction as the rest of its batch, so this limit is only a fallback. It must be high: each restart of a worker
# counts once for every message it had prefetched.
_DELIVERY_LIMIT = 100

_BOUNDED_QUORUM_QUEUE: FieldTable = {
    "x-queue-type": "quorum",
    "x-max-length": _MAX_QUEUE_MESSAGES,
    "x-max-length-bytes": _MAX_QUEUE_BYTES,
    "x-overflow": "reject-publish",
}
# at-least-once: the broker drops the original only after the dead-letter queue confirmed it. Needs reject-publish.
_ORDER_QUEUE: FieldTable = _BOUNDED_QUORUM_QUEUE | {
    "x-delivery-limit": _DELIVERY_LIMIT,
    "x-dead-letter-exchange": DEAD_EXCHANGE,
    "x-dead-letter-strategy": "at-least-once",
}
# Nothing catches what this queue drops. In a queue without its own limit, RabbitMQ 4 drops a message that was returned
# 20 times, and 3.10 has no value for "never". So the limit is a number that no restarts and outages add up to.
_DEAD_QUEUE: FieldTable = _BOUNDED_QUORUM_QUEUE | {"x-delivery-limit": 1_000_000_000}


OpenChannel = Callable[[], Awaitable[AbstractChannel]]
"""Opens a channel on the connection, in place of the one before."""


async def begin_intake(open_channel: OpenChannel) -> bool:
    """Mark the broker before ingest_api publishes to it. True if it had none: no release that marks has published."""
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
    """Declare orders.accepted: ingest_api publishes to it, persist_worker consumes it."""
    return await _declare_order_queue(channel, ORDERS_ACCEPTED_QUEUE, ORDER_ACCEPTED)


async def declare_created(channel: AbstractChannel) -> AbstractQueue:
    """Declare orders.created: persist_worker publishes to it, product_consumer consumes it."""
    return await _declare_order_queue(channel, ORDERS_CREATED_QUEUE, ORDER_CREATED)


async def declare_cancel_requested(channel: AbstractChannel) -> AbstractQueue:
    """Declare orders.cancel_requested: ingest_api publishes to it, product_consumer consumes it."""
    return await _declare_order_queue(channel, ORDERS_CANCEL_REQUESTED_QUEUE, ORDER_CANCEL_REQUESTED)


async def declare_dead(channel: AbstractChannel) -> AbstractQueue:
    """Declare orders.dead: the broker dead-letters to it, persist_worker parks from it."""
    await channel.declare_exchange(DEAD_EXCHANGE, ExchangeType.TOPIC, durable=True)
    queue = await channel.declare_queue(ORDERS_DEAD_QUEUE, durable=True, arguments=dict(_DEAD_QUEUE))
    await queue.bind(DEAD_EXCHANGE, "#")
    return queue


async def declare_products(channel: AbstractChannel) -> None:
    """Declare the exchange of product events. They are hints, so no queue keeps them for an absent reader."""
    await channel.declare_exchange(PRODUCTS_EXCHANGE, ExchangeType.TOPIC, durable=True)


async def declare_events(channel: AbstractChannel) -> None:
    """Declare the exchange of order events. Each consumer binds a queue of its own."""
    await channel.declare_exchange(EVENTS_EXCHANGE, ExchangeType.TOPIC, durable=True)


async def declare_product_events(channel: AbstractChannel) -> AbstractQueue:
    """Declare a private queue that gets every product event for as long as its connection lives."""
    queue = await channel.declare_queue(exclusive=True, auto_delete=True, arguments={"x-max-length": 100_000})
    await bind_product_events(channel, queue)
    return queue


async def bind_product_events(channel: AbstractChannel, queue: AbstractQueue) -> None:
    """Bind `queue` to the product events. Repeat it: no consumer is told of a deleted exchange or binding."""
    await declare_products(channel)
    await queue.bind(PRODUCTS_EXCHANGE, "product.*")


async def _declare_order_queue(channel: AbstractChannel, name: str, routing_key: str) -> AbstractQueue:
    await channel.declare_exchange(ORDERS_EXCHANGE, ExchangeType.TOPIC, durable=True)
    await declare_dead(channel)
    queue = await channel.declare_queue(name, durable=True, arguments=dict(_ORDER_QUEUE))
    await queue.bind(ORDERS_EXCHANGE, routing_key)
    return queue
