"""P10 at the first step: a batch is read, whatever is in it."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.broker.deliveries import Delivery
from pipeline.broker.incoming import read
from pipeline.contract.orders import SCHEMA, SCHEMAS, decode_body, encode_order
from tests.support.data.orders import body_of, new_product_id, order

A = new_product_id()


def delivery(body: bytes, schema: object = SCHEMA) -> Delivery:
    return Delivery(1, body, schema, 1, redelivered=False)


def test_well_formed_messages_are_forwarded_without_encoding() -> None:
    first, second, third = order(A), order(A), order(A)
    incoming = read([delivery(body_of(first, second)), delivery(body_of(third))])
    assert incoming.orders == [first, second, third]
    assert incoming.body == body_of(first, second, third)
    assert incoming.unreadable == []


def test_a_message_from_another_hand_is_joined_whole() -> None:
    """JSON allows whitespace around an array; what is forwarded must still be one array."""
    first, second = order(A), order(A)
    incoming = read([delivery(b" \n" + body_of(first) + b"\n"), delivery(body_of(second))])
    assert incoming.body is not None
    assert decode_body(incoming.body) == [first, second]


def test_an_empty_message_brings_nothing() -> None:
    incoming = read([delivery(b"[]"), delivery(b" [ ] ")])
    assert (incoming.orders, incoming.unreadable, incoming.body) == ([], [], None)


def test_p10_one_bad_order_in_a_message_costs_only_itself() -> None:
    first, last = order(A), order(A)
    bad = b'{"id":"' + first.id.encode() + b'","quantity":"many"}'
    incoming = read([delivery(b"[" + encode_order(first) + b", " + bad + b" ," + encode_order(last) + b"]")])
    assert incoming.orders == [first, last]
    assert [it.body for it in incoming.unreadable] == [b"[" + bad + b"]"]
    assert incoming.body is None


def test_p4_what_is_no_order_is_parked_under_its_id_if_it_has_one() -> None:
    known = order(A).id
    bodies = [b'[{"id":"' + known.encode() + b'"}]', b'[{"id":"x"}]', b'[{"id":7}]', b"[null]", b"[[]]", b'["\xff"]']
    assert [it.order_id for it in read(map(delivery, bodies)).unreadable] == [known, None, None, None, None, None]


def test_p10_what_is_no_json_is_parked_byte_by_byte() -> None:
    noise = b"\x00\xff not JSON ["
    good = order(A)
    incoming = read([delivery(noise), delivery(body_of(good))])
    assert incoming.orders == [good]
    assert [it.body for it in incoming.unreadable] == [noise]


def test_p10_an_unknown_schema_is_parked_and_never_guessed_at() -> None:
    body = body_of(order(A))
    for schema in (None, 0, SCHEMAS[-1] + 1, str(SCHEMA), b"\xff", [SCHEMA]):
        (parked,) = read([delivery(body, schema)]).unreadable
        assert parked.unknown_schema
        assert parked.body == body


def test_a_batch_says_the_latest_schema_of_its_messages() -> None:
    """persist_worker forwards the batch as one message, and its reader must know every member in it."""
    plain, detailed = body_of(order(A)), body_of(order(A, reference="4711"))
    assert read([delivery(plain)]).schema == 1
    assert read([delivery(plain), delivery(detailed, 2), delivery(plain)]).schema == 2
    assert read([delivery(plain), delivery(b"[" + detailed[1:-1] + b",7]", 2)]).schema == 2
    assert read([]).schema == 1


def test_what_is_unreadable_keeps_the_schema_of_its_message() -> None:
    """So that a replay says it again."""
    bad = [delivery(b"[" + encode_order(order(A)) + b",7]", 2), delivery(b"no JSON", 2), delivery(b"[7]")]
    assert [it.schema for it in read(bad).unreadable] == [2, 2, 1]


@given(st.lists(st.binary(max_size=40) | st.just(body_of(order(A))), max_size=6))
def test_p10_reading_never_raises(bodies: list[bytes]) -> None:
    incoming = read(map(delivery, bodies))
    assert len(incoming.orders) == sum(body.startswith(b'[{"id"') for body in bodies)


@given(st.lists(st.sampled_from([b"1", b"null", b'{"id":null}', b'"\xc3"', encode_order(order(A))]), max_size=6))
def test_p10_every_element_is_an_order_or_parked(elements: list[bytes]) -> None:
    incoming = read([delivery(b"[" + b",".join(elements) + b"]")])
    assert len(incoming.orders) + len(incoming.unreadable) == len(elements)
