"""Schema 1 is written as ever and read for ever: these bytes are in queues and in dead letters."""

import msgspec
import pytest

from persist_worker.worker import to_forward
from persist_worker.write import Written
from pipeline.broker.deliveries import Delivery
from pipeline.broker.incoming import Incoming, read
from pipeline.broker.publisher import _properties
from pipeline.contract.orders import SCHEMA, Order, decode_body, encode_order, join_orders, split_body, with_context
from tests.golden import ACCEPTED, CREATED, ORDERS, PROPERTIES

HEADERS = PROPERTIES["headers"]
# What a later version may add: in front, in the middle with a name that is known elsewhere, and behind.
MORE = (
    (b'{"id":', b'{"region":"eu","id":'),
    (b'"quantity":', b'"gift":{"wrapped":[true,"\xc3\xa9",null],"quantity":9},"quantity":'),
    (b'"status":"PENDING"', b'"status":"PENDING","tax":{"rate":0.19}'),
)


def delivery(body: bytes, schema: object = HEADERS["schema"]) -> Delivery:
    return Delivery(1, body, schema, HEADERS["orders"], redelivered=False)


def digits(orders: list[Order]) -> list[tuple[str, str]]:
    """Equal decimals may differ in their zeros: 1.5 == 1.50."""
    return [(str(it.unit_price), str(it.total_price)) for it in orders]


@pytest.mark.parametrize("body", [ACCEPTED, CREATED], ids=["accepted", "created"])
def test_schema_1_is_read_as_ever(body: bytes) -> None:
    incoming = read([delivery(body)])
    assert (incoming.orders, incoming.unreadable) == (ORDERS, [])
    assert digits(incoming.orders) == digits(ORDERS)


def test_ingest_api_writes_order_accepted_byte_by_byte_as_ever() -> None:
    """The client's answer, with what only the workers need behind it."""
    written = [
        with_context(
            encode_order(msgspec.structs.replace(it, traceparent=None, request_hash=None, client=None)),
            it.traceparent,
            it.request_hash,
            it.client or "",
        )
        for it in ORDERS
    ]
    assert join_orders(written) == ACCEPTED


def test_persist_worker_writes_order_created_byte_by_byte_as_ever() -> None:
    """Whether it forwards what came, or encodes anew because something beside it could not be stored."""
    stored = Written("direct", ORDERS)
    assert to_forward(read([delivery(ACCEPTED)]), ORDERS, stored) == CREATED
    assert to_forward(Incoming(ORDERS, [], None), ORDERS, stored) == CREATED


def test_every_message_says_that_it_is_of_schema_1() -> None:
    properties = _properties(len(ORDERS))
    assert {name: getattr(properties, name) for name in PROPERTIES} == PROPERTIES
    assert SCHEMA == HEADERS["schema"] == 1


@pytest.mark.parametrize(("before", "after"), MORE)
def test_a_reader_ignores_fields_that_it_does_not_know_and_passes_them_on(before: bytes, after: bytes) -> None:
    body = ACCEPTED.replace(before, after)
    assert body.count(after) == len(ORDERS)
    incoming = read([delivery(body)])
    assert incoming.orders == ORDERS
    assert to_forward(incoming, ORDERS, Written("direct", ORDERS)) == body


@pytest.mark.parametrize("name", ["status", "traceparent", "request_hash", "client"])
def test_what_may_be_left_out_may_be_left_out(name: str) -> None:
    orders = [{**msgspec.json.decode(it, type=dict)} for it in split_body(ACCEPTED)]
    body = msgspec.json.encode([{key: value for key, value in it.items() if key != name} for it in orders])
    assert [getattr(it, name) for it in decode_body(body)] == [None] * len(ORDERS)


@pytest.mark.parametrize("name", ["id", "product_id", "quantity", "unit_price", "total_price", "created_at"])
def test_what_every_order_of_schema_1_has_may_not_be_left_out(name: str) -> None:
    """Whoever leaves one out writes another schema."""
    element = msgspec.json.decode(split_body(ACCEPTED)[0], type=dict)
    del element[name]
    incoming = read([delivery(msgspec.json.encode([element]))])
    assert (incoming.orders, len(incoming.unreadable)) == ([], 1)


@pytest.mark.parametrize("schema", [2, 0, "1", None], ids=repr)
def test_p10_another_schema_is_parked_whole_however_well_it_could_be_read(schema: object) -> None:
    incoming = read([delivery(ACCEPTED, schema)])
    assert [(it.body, it.unknown_schema) for it in incoming.unreadable] == [(ACCEPTED, True)]
    assert incoming.orders == []
