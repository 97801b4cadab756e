"""The AsyncAPI 3.0 document of the messages between processes, made from the topology and the message types."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from ingest_api.documents import order_examples as examples
from ingest_api.documents.declared import Declared, Exchange, Queue
from ingest_api.documents.event_examples import PROCESSED
from pipeline.contract import topology
from pipeline.contract.cancellations import SCHEMA as CANCELLATIONS_SCHEMA
from pipeline.contract.cancellations import Cancellation, encode_cancellation
from pipeline.contract.fields import EXAMPLE_ORDER, EXAMPLE_PRODUCT
from pipeline.contract.order_events import EventType, OrderEvent, join_events
from pipeline.contract.order_events import encode_event as encode_order_event
from pipeline.contract.orders import SCHEMA, SCHEMAS, Basket, Order, encode_order, join_orders, schema_of
from pipeline.contract.product_events import ProductEvent, encode_event
from pipeline.process.version import project_version
from web.documents.json_schema import schemas_of

Json = dict[str, Any]

_DESCRIPTION = """\
RabbitMQ, AMQP 0-9-1. Every message is persistent and published with a confirm. Orders and cancellations are delivered
at least once: who reads them recognises an order by its `id`. Product events are hints: one may be lost, and none
decides anything.

`order_events` is for services of your own: bind a queue to the types that you want. Every event that is logged from
then on comes at least once, and its `id` tells one that comes again. A queue's first message may be an empty array.
"""

_CONTEXT = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "client": "web-shop"}
_ORDERS_SENT = [
    msgspec.structs.replace(it, **_CONTEXT) for it in (examples.ACCEPTED, examples.BASKET, examples.DETAILED)
]
_CANCELLATION = Cancellation(
    EXAMPLE_ORDER,
    datetime(2026, 1, 5, 9, 31, 12, 123456, UTC),
    client="web-shop",
    reason="the customer changed her mind",
)
_EVENT = ProductEvent(EXAMPLE_PRODUCT, 3, Decimal("1500.00"), 48)

_ORDERS, _CANCELLATIONS, _PRODUCT, _ORDER_EVENTS = "orders", "cancellations", "productEvent", "orderEvents"
_PRODUCT_EVENTS = {
    topology.PRODUCT_CREATED: "a product was created",
    topology.PRODUCT_UPDATED: "it was changed in some other way than these",
    topology.PRODUCT_DELETED: "it was taken off sale",
    topology.PRODUCT_SOLD_OUT: "its last unit was sold, or corrected away",
    topology.PRODUCT_RESTOCKED: "units arrived",
}


class Operation(NamedTuple):
    """What a process does at a channel, which is named after its routing key or queue."""

    channel: str
    action: str
    process: str
    summary: str


_EVENT_QUEUE = "product events"
"""The broker names this queue differently in each ingest_api."""

_OPERATIONS = (
    Operation(
        topology.ORDER_ACCEPTED, "send", "ingest_api", "Accepted orders. The client's 202 waits for the confirm."
    ),
    Operation(topology.ORDERS_ACCEPTED_QUEUE, "receive", "persist_worker", "Stores the orders."),
    Operation(topology.ORDER_CREATED, "send", "persist_worker", "Stored orders. The ack of their input waits for it."),
    Operation(topology.ORDERS_CREATED_QUEUE, "receive", "product_consumer", "Takes the stock, and decides."),
    Operation(
        topology.ORDER_CANCEL_REQUESTED,
        "send",
        "ingest_api",
        "Orders that their clients take back. The client's 202 waits for the confirm.",
    ),
    Operation(
        topology.ORDERS_CANCEL_REQUESTED_QUEUE,
        "receive",
        "product_consumer",
        "Cancels orders, and gives the stock of those that were processed back.",
    ),
    Operation(topology.ORDERS_DEAD_QUEUE, "receive", "persist_worker", "Parks what the broker has given up on."),
    *(Operation(key, "send", "product_api", f"Tells that {what}.") for key, what in _PRODUCT_EVENTS.items()),
    Operation(topology.PRODUCT_SOLD_OUT, "send", "product_consumer", "Tells that an order took the last unit."),
    Operation(
        topology.PRODUCT_RESTOCKED,
        "send",
        "product_consumer",
        "Tells that a cancelled order gave units back to a product that was sold out.",
    ),
    *(Operation(it, "send", "event_relay", f"Tells what happened. {it.meaning}") for it in EventType),
    Operation(_EVENT_QUEUE, "receive", "ingest_api", "Keeps prices, and what is sold out, fresh in each process."),
)


def asyncapi_document() -> Json:
    declared = Declared()
    types = [Order, Basket, list[Cancellation], ProductEvent, list[OrderEvent]]
    (order, basket, cancellations, event, order_events), schemas = schemas_of(types)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Headrace: messages",
            "version": project_version(),
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "url": "https://spdx.org/licenses/MIT.html"},
        },
        "defaultContentType": "application/json",
        "channels": _channels(declared),
        "operations": {_name(f"{it.process} {it.action} {it.channel}"): _operation(it) for it in _OPERATIONS},
        "components": {
            "messages": {
                _ORDERS: _message(
                    "A batch of orders",
                    "Orders, each once, as many as waited at the same time.",
                    {"type": "array", "items": {"oneOf": [order, basket]}, "minItems": 1},
                    _HEADERS,
                    *(_example(join_orders([encode_order(it)]), schema_of(it), 1) for it in _ORDERS_SENT),
                ),
                _CANCELLATIONS: _message(
                    "A batch of cancellations",
                    "Cancellations of orders, as many as waited at the same time. One may overtake its order.",
                    cancellations | {"minItems": 1},
                    _CANCELLATION_HEADERS,
                    _example(join_orders([encode_cancellation(_CANCELLATION)]), CANCELLATIONS_SCHEMA, 1),
                ),
                _PRODUCT: _message(
                    "A product event",
                    "The product as it is now.",
                    event,
                    {"schema": {"type": "integer", "const": SCHEMA, "description": _VERSION}},
                    _example(encode_event(_EVENT), SCHEMA),
                ),
                _ORDER_EVENTS: _message(
                    "Events of orders",
                    "Events of one type. Those of one order come in their order.",
                    order_events,
                    {},
                    _example(join_events([encode_order_event(PROCESSED)])),
                ),
            },
            "schemas": schemas,
        },
    }


def _channels(declared: Declared) -> Json:
    orders, products = (declared.exchanges[it] for it in (topology.ORDERS_EXCHANGE, topology.PRODUCTS_EXCHANGE))
    channels = {key: _routing_key(key, orders, _ORDERS) for key in (topology.ORDER_ACCEPTED, topology.ORDER_CREATED)}
    key = topology.ORDER_CANCEL_REQUESTED
    channels[key] = _routing_key(key, orders, _CANCELLATIONS)
    channels |= {key: _routing_key(key, products, _PRODUCT) for key in _PRODUCT_EVENTS}
    channels |= {
        it.value: _routing_key(it, declared.exchanges[topology.EVENTS_EXCHANGE], _ORDER_EVENTS) for it in EventType
    }
    for name, queue in declared.queues.items():
        channels[name or _EVENT_QUEUE] = _queue(queue, _message_at(name) if name else _PRODUCT)
    return {_name(name): channel for name, channel in channels.items()}


def _routing_key(key: str, exchange: Exchange, message: str) -> Json:
    described = {"name": exchange.name, "type": exchange.type, "durable": exchange.durable, "autoDelete": False}
    return _channel(key, message, {"is": "routingKey", "exchange": described})


def _queue(queue: Queue, message: str) -> Json:
    described = {
        "name": queue.name,
        "durable": queue.durable,
        "exclusive": queue.exclusive,
        "autoDelete": queue.auto_delete,
        "x-arguments": queue.arguments,
        "x-bindings": [{"exchange": exchange, "routingKey": key} for exchange, key in queue.bindings],
    }
    return _channel(queue.name or None, message, {"is": "queue", "queue": described})


def _channel(address: str | None, message: str, amqp: Json) -> Json:
    return {
        "address": address,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "bindings": {"amqp": amqp | {"bindingVersion": "0.3.0"}},
    }


def _operation(operation: Operation) -> Json:
    name = _name(operation.channel)
    message = _message_at(operation.channel)
    return {
        "action": operation.action,
        "channel": {"$ref": f"#/channels/{name}"},
        "title": operation.process,
        "summary": operation.summary,
        "tags": [{"name": operation.process}],
        "messages": [{"$ref": f"#/channels/{name}/messages/{message}"}],
    }


def _message_at(channel: str) -> str:
    if channel in list(EventType):
        return _ORDER_EVENTS
    if channel in (topology.ORDER_CANCEL_REQUESTED, topology.ORDERS_CANCEL_REQUESTED_QUEUE):
        return _CANCELLATIONS
    return _PRODUCT if channel.startswith("product") else _ORDERS


def _message(title: str, summary: str, payload: Json, headers: Json, *examples: Json) -> Json:
    return {
        "title": title,
        "summary": summary,
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "properties": headers,
            "required": list(headers),
        },
        "payload": payload,
        "examples": list(examples),
    }


def _example(payload: bytes, schema: int | None = None, orders: int | None = None) -> Json:
    headers = {"schema": schema, "orders": orders}
    return {
        "headers": {name: value for name, value in headers.items() if value is not None},
        "payload": msgspec.Raw(payload),
    }


_VERSION = "The version of the payload. A reader parks what it does not know; it never guesses."
_HEADERS: Json = {
    "schema": {
        "type": "integer",
        "enum": list(SCHEMAS),
        "description": f"{_VERSION} 2: at least one order has a reference, metadata or lines.",
    },
    "orders": {"type": "integer", "minimum": 1, "description": "How many orders or cancellations the payload has."},
}
_CANCELLATION_HEADERS: Json = _HEADERS | {
    "schema": {"type": "integer", "const": CANCELLATIONS_SCHEMA, "description": _VERSION}
}


def _name(text: str) -> str:
    """A key as the document requires it: camelCase from dots and spaces."""
    first, *rest = text.replace(".", " ").replace("_", " ").split()
    return first + "".join(word.capitalize() for word in rest)
