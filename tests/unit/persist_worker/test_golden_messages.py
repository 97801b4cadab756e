"""Each schema is written as ever and read for ever: these bytes are in queues and in dead letters."""

from collections.abc import Sequence

import msgspec
import pytest

from persist_worker.worker import to_forward
from persist_worker.write import Written
from pipeline.broker.deliveries import Delivery
from pipeline.broker.incoming import Incoming, read
from pipeline.broker.publisher import _properties
from pipeline.contract.orders import (
    SCHEMAS,
    AnyOrder,
    decode_body,
    encode_order,
    join_orders,
    lines_of,
    schema_of_all,
    split_body,
    with_context,
)
from tests.golden import GOLDEN, V1, Golden

# What a later version may add: in front, in the middle with a name that is known elsewhere, and behind.
MORE = (
    (b'{"id":', b'{"region":"eu","id":'),
    (b'"quantity":', b'"gift":{"wrapped":[true,"\xc3\xa9",null],"quantity":9},"quantity":'),
    (b'"status":"PENDING"', b'"status":"PENDING","tax":{"rate":0.19}'),
)


each_schema = pytest.mark.parametrize("golden", GOLDEN, ids=lambda it: it.name)


def delivery(body: bytes, schema: object) -> Delivery:
    return Delivery(1, body, schema, len(V1.orders), redelivered=False)


def digits(orders: Sequence[AnyOrder]) -> list[tuple[str, str]]:
    """Equal decimals may differ in their zeros: 1.5 == 1.50."""
    return [(str(it.unit_price), str(it.total_price)) for order in orders for it in lines_of(order)]


@each_schema
def test_every_schema_is_read_as_ever(golden: Golden) -> None:
    for body in (golden.accepted, golden.created):
        incoming = read([delivery(body, golden.schema)])
        assert (incoming.orders, incoming.unreadable, incoming.schema) == (golden.orders, [], golden.schema)
        assert digits(incoming.orders) == digits(golden.orders)


@each_schema
def test_ingest_api_writes_order_accepted_byte_by_byte_as_ever(golden: Golden) -> None:
    """The client's answer, with what only the workers need behind it."""
    written = [
        with_context(
            encode_order(msgspec.structs.replace(it, traceparent=None, request_hash=None, client=None)),
            it.traceparent,
            it.request_hash,
            it.client or "",
        )
        for it in golden.orders
    ]
    assert join_orders(written) == golden.accepted


@each_schema
def test_persist_worker_writes_order_created_byte_by_byte_as_ever(golden: Golden) -> None:
    """Whether it forwards what came, or encodes anew because something beside it could not be stored."""
    stored = Written("direct", golden.orders)
    assert to_forward(read([delivery(golden.accepted, golden.schema)]), golden.orders, stored) == golden.created
    assert to_forward(Incoming(golden.orders, [], None), golden.orders, stored) == golden.created


@each_schema
def test_a_message_says_the_first_schema_that_knows_all_its_members(golden: Golden) -> None:
    properties = _properties(len(golden.orders), schema_of_all(golden.orders))
    assert {name: getattr(properties, name) for name in golden.properties} == golden.properties


def test_there_are_golden_messages_of_every_schema_that_is_read() -> None:
    assert tuple(sorted({it.schema for it in GOLDEN})) == SCHEMAS


@pytest.mark.parametrize(("before", "after"), MORE)
def test_a_reader_ignores_fields_that_it_does_not_know_and_passes_them_on(before: bytes, after: bytes) -> None:
    body = V1.accepted.replace(before, after)
    assert body.count(after) == len(V1.orders)
    incoming = read([delivery(body, 1)])
    assert incoming.orders == V1.orders
    assert to_forward(incoming, V1.orders, Written("direct", V1.orders)) == body


@pytest.mark.parametrize("name", ["status", "traceparent", "request_hash", "client"])
def test_what_may_be_left_out_may_be_left_out(name: str) -> None:
    orders = [{**msgspec.json.decode(it, type=dict)} for it in split_body(V1.accepted)]
    body = msgspec.json.encode([{key: value for key, value in it.items() if key != name} for it in orders])
    assert [getattr(it, name) for it in decode_body(body)] == [None] * len(V1.orders)


@pytest.mark.parametrize("name", ["id", "product_id", "quantity", "unit_price", "total_price", "created_at"])
def test_what_every_order_of_schema_1_has_may_not_be_left_out(name: str) -> None:
    """Whoever leaves one out writes another schema."""
    element = msgspec.json.decode(split_body(V1.accepted)[0], type=dict)
    del element[name]
    incoming = read([delivery(msgspec.json.encode([element]), 1)])
    assert (incoming.orders, len(incoming.unreadable)) == ([], 1)


@pytest.mark.parametrize("schema", [3, 0, "1", None], ids=repr)
def test_p10_another_schema_is_parked_whole_however_well_it_could_be_read(schema: object) -> None:
    incoming = read([delivery(V1.accepted, schema)])
    assert [(it.body, it.unknown_schema) for it in incoming.unreadable] == [(V1.accepted, True)]
    assert incoming.orders == []
