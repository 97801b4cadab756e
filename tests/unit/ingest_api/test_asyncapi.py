"""The AsyncAPI document: valid, and the same names, arguments and types as the code's."""

import gzip
import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec

from ingest_api.documents.asyncapi import asyncapi_document
from ingest_api.documents.declared import Declared
from pipeline.broker.publisher import _properties
from pipeline.contract import topology
from pipeline.contract.order_events import EventType, OrderEvent
from pipeline.contract.orders import SCHEMAS, decode_body, schema_of_all
from pipeline.contract.product_events import decode_event
from tests.support.data.json_schema import as_sent, check

ROOT = Path(__file__).parents[3]
DOCUMENT: Any = as_sent(asyncapi_document())
QUEUES = {*topology.QUEUES.values(), topology.ORDERS_DEAD_QUEUE}


def amqp_of(channel: Any) -> Any:
    return channel["bindings"]["amqp"]


def constants(prefix: str) -> set[str]:
    return {value for name, value in vars(topology).items() if name.startswith(prefix) and isinstance(value, str)}


def test_the_document_is_valid() -> None:
    schema = json.loads(gzip.decompress((ROOT / "tests/schemas/asyncapi-3.0.0.json.gz").read_bytes()))
    assert list(jsonschema.Draft7Validator(schema).iter_errors(DOCUMENT)) == []


def test_the_routing_keys_are_those_of_the_topology() -> None:
    described = {
        channel["address"]: amqp_of(channel)["exchange"]["name"]
        for channel in DOCUMENT["channels"].values()
        if amqp_of(channel)["is"] == "routingKey"
    }
    orders = set(topology.KEYS.values())
    products = {it for it in constants("PRODUCT_") if it.startswith("product.")}
    assert described == {
        **dict.fromkeys(orders, topology.ORDERS_EXCHANGE),
        **dict.fromkeys(products, topology.PRODUCTS_EXCHANGE),
        **{it.value: topology.EVENTS_EXCHANGE for it in EventType},
    }


def test_the_queues_are_those_of_the_topology_with_their_limits() -> None:
    queues = {
        amqp_of(channel)["queue"]["name"]: amqp_of(channel)["queue"]
        for channel in DOCUMENT["channels"].values()
        if amqp_of(channel)["is"] == "queue"
    }
    assert queues.keys() == QUEUES | {""}  # "": of each ingest_api, named by the broker
    for name in topology.QUEUES.values():
        assert queues[name]["durable"]
        assert queues[name]["x-arguments"] == topology._ORDER_QUEUE
    assert queues[topology.ORDERS_DEAD_QUEUE]["x-bindings"] == [{"exchange": topology.DEAD_EXCHANGE, "routingKey": "#"}]
    assert queues[topology.ORDERS_ACCEPTED_QUEUE]["x-bindings"] == [
        {"exchange": topology.ORDERS_EXCHANGE, "routingKey": topology.ORDER_ACCEPTED}
    ]
    assert (queues[""]["exclusive"], queues[""]["autoDelete"]) == (True, True)


def test_all_exchanges_are_declared_and_durable() -> None:
    exchanges = Declared().exchanges
    assert exchanges.keys() == {
        topology.ORDERS_EXCHANGE,
        topology.PRODUCTS_EXCHANGE,
        topology.EVENTS_EXCHANGE,
        topology.DEAD_EXCHANGE,
    }
    assert all(it.durable and it.type == "topic" for it in exchanges.values())


def test_the_processes_are_packages_and_each_channel_has_someone() -> None:
    for operation in DOCUMENT["operations"].values():
        assert (ROOT / operation["title"] / "__main__.py").exists()
    used = {it["channel"]["$ref"].rpartition("/")[2] for it in DOCUMENT["operations"].values()}
    assert DOCUMENT["channels"].keys() == used


def test_the_examples_are_what_their_schemas_say() -> None:
    for message in DOCUMENT["components"]["messages"].values():
        for example in message["examples"]:
            check(example["payload"], message["payload"], DOCUMENT)
            check(example["headers"], message["headers"], DOCUMENT)


def test_the_examples_are_read_by_the_readers() -> None:
    messages = DOCUMENT["components"]["messages"]
    payload = {name: msgspec.json.encode(it["examples"][0]["payload"]) for name, it in messages.items()}
    assert len(decode_body(payload["orders"])) == 1
    detailed = decode_body(msgspec.json.encode(messages["orders"]["examples"][1]["payload"]))
    assert messages["orders"]["examples"][1]["headers"] == _properties(1, schema_of_all(detailed)).headers
    decode_event(payload["productEvent"])
    assert [it.order.id for it in msgspec.json.decode(payload["orderEvents"], type=list[OrderEvent])]


def test_the_headers_are_those_of_the_publisher() -> None:
    messages = DOCUMENT["components"]["messages"]
    assert messages["orders"]["examples"][0]["headers"] == _properties(orders=1).headers
    assert messages["productEvent"]["examples"][0]["headers"] == _properties(orders=0).headers
    assert messages["orders"]["headers"]["properties"]["schema"]["enum"] == list(SCHEMAS)
