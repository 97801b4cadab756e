"""The message: encoded once, exact in both directions, and whatever comes, an order or InvalidOrder."""

from contextlib import suppress
from datetime import UTC

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.contract.orders import (
    InvalidOrder,
    Order,
    decode_body,
    decode_order,
    encode_order,
    join_bodies,
    join_orders,
    split_body,
    with_context,
)
from tests.golden import V1
from tests.support.data.orders import body_of, new_product_id, order

uuids = st.uuids().map(str)
money = st.decimals(0, 9_999_999_999, places=2)
orders = st.builds(
    Order,
    id=uuids,
    product_id=uuids,
    quantity=st.integers(1, 1_000_000),
    unit_price=money,
    total_price=st.decimals(0, 999_999_999_999_999_999, places=2),
    created_at=st.datetimes(timezones=st.just(UTC)),
    status=st.none() | st.just("PENDING"),
    traceparent=st.none() | st.text(max_size=55),
    request_hash=st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex),
    client=st.none() | st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,63}", fullmatch=True),
)


def digits(it: Order) -> tuple[str, str]:
    """Equal decimals may differ in their zeros: 1.5 == 1.50."""
    return str(it.unit_price), str(it.total_price)


@given(orders)
def test_an_order_comes_back_exactly(it: Order) -> None:
    back = decode_order(encode_order(it))
    assert back == it
    assert digits(back) == digits(it)
    assert encode_order(back) == encode_order(it)


@given(st.lists(orders, max_size=4))
def test_a_body_is_made_and_split_without_loss(them: list[Order]) -> None:
    encoded = [encode_order(it) for it in them]
    assert split_body(join_orders(encoded)) == encoded
    assert decode_body(join_orders(encoded)) == them


@given(st.lists(st.lists(orders, min_size=1, max_size=3), min_size=1, max_size=4), st.data())
def test_joined_bodies_hold_all_their_orders_in_order(bodies: list[list[Order]], data: st.DataObject) -> None:
    """Also with the whitespace that JSON allows around an array."""
    space = st.text(" \n\r\t", max_size=2).map(str.encode)
    written = [data.draw(space) + body_of(*body) + data.draw(space) for body in bodies]
    assert decode_body(join_bodies(written)) == [it for body in bodies for it in body]


@given(orders)
def test_what_only_the_workers_need_stands_behind_what_the_client_gets(it: Order) -> None:
    bare = msgspec.structs.replace(it, traceparent=None, request_hash=None, client=None)
    for trace in (None, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"):
        for request_hash in (None, "00ff"):
            for client in ("", "shop", "a.b-c_9"):
                encoded = with_context(encode_order(bare), trace, request_hash, client)
                assert encoded.startswith(encode_order(bare)[:-1])
                context = {"traceparent": trace, "request_hash": request_hash, "client": client or None}
                assert decode_order(encoded) == msgspec.structs.replace(bare, **context)
                assert encode_order(decode_order(encoded)) == encoded


@given(st.binary())
def test_p10_random_bytes_are_an_invalid_order_and_never_another_error(noise: bytes) -> None:
    for read in (decode_body, decode_order, split_body):
        with suppress(InvalidOrder):
            read(noise)


@given(st.integers(0, len(V1.accepted) - 1), st.integers(0, 255))
def test_p10_a_damaged_byte_is_an_invalid_order_or_an_order_that_can_be_written_again(at: int, byte: int) -> None:
    damaged = V1.accepted[:at] + bytes([byte]) + V1.accepted[at + 1 :]
    try:
        read = decode_body(damaged)
    except InvalidOrder:
        return
    assert decode_body(body_of(*read)) == read


@pytest.mark.parametrize("opening", [b"[", b'{"id":', b'[{"traceparent":['])
def test_p10_deep_nesting_is_an_invalid_order(opening: bytes) -> None:
    for read in (decode_body, decode_order, split_body):
        with pytest.raises(InvalidOrder):
            read(opening * 100_000)


def damaged(**changes: object) -> bytes:
    """An order as JSON with fields replaced, or removed by None."""
    fields = {**msgspec.json.decode(encode_order(order(new_product_id()))), **changes}
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not None})


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "not-a-uuid"},
        {"id": "019B7CB6-152E-8AD2-A96D-2D2A00000001"},
        {"id": "019b7cb6152e8ad2a96d2d2a00000001"},
        {"id": "{019b7cb6-152e-8ad2-a96d2d2a00000001}"},
        {"id": "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"},
        {"id": "019b7cb6-152e-8ad2-a96d-2d2a0000000\n"},
        {"id": "019b7cb6-152e-8ad2-a96d-2d2a0000000é"},
        {"product_id": "8C1F4F0E-3C51-4F58-9C0A-0D6F3C1F7A11"},
        {"product_id": ""},
        {"product_id": None},
        {"quantity": "2"},
        {"quantity": 1.5},
        {"unit_price": "NaN"},
        {"unit_price": "Infinity"},
        {"total_price": "-Infinity"},
        {"total_price": "sNaN"},
        {"unit_price": True},
        {"created_at": "2026-01-02T03:04:05"},
        {"created_at": "yesterday"},
        {"created_at": 1_767_323_045},
    ],
    ids=str,
)
def test_p10_what_is_not_an_order_is_said_to_be_none(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidOrder):
        decode_order(damaged(**changes))
    with pytest.raises(InvalidOrder):
        decode_body(b"[" + damaged(**changes) + b"]")


@pytest.mark.parametrize("text", [b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"', b'"\x00"'])
def test_p10_text_that_is_no_text_is_an_invalid_order(text: bytes) -> None:
    encoded = encode_order(order(new_product_id())).replace(b'"PENDING"', text)
    with pytest.raises(InvalidOrder):
        decode_order(encoded)
