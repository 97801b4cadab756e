"""Idempotency keys: how they are written, what ids they make, and what a remembered answer says."""

import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import product
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.idempotency.records import (
    Claim,
    KeyConflict,
    Replay,
    Request,
    fingerprint_of,
    judge,
    may_be_accepted,
    name_of,
    pack,
    unpack,
)
from ingest_api.requests import OrderRequest, to_order
from pipeline.contract.order_ids import OrderIds
from pipeline.contract.orders import Order
from tests.support.data.orders import accepted_at_ms
from web.problems import problems, unknown_outcomes
from web.problems.problems import Problem
from web.requests.idempotency_keys import idempotency_key

IDS = OrderIds("a secret that all processes share")
UUID7 = "01a20267-97ad-7199-a6a6-540000cf26ec"


def key_of(*values: bytes) -> str | None:
    return idempotency_key(values)


# ── how a key is written


def test_without_the_header_there_is_no_key() -> None:
    assert key_of() is None


@pytest.mark.parametrize("bare", [b"a", b"8e03978e-40d5-43dd-bc93-6894a57f9324", b"!" * 255, b'x"y', b"a\\b"])
def test_a_key_may_be_bare(bare: bytes) -> None:
    assert key_of(bare) == bare.decode()


@pytest.mark.parametrize("inner", [b"a", b"8e03978e-40d5-43dd-bc93-6894a57f9324", b"~" * 255])
def test_a_key_may_be_a_structured_string_and_is_the_same_key(inner: bytes) -> None:
    assert key_of(b'"' + inner + b'"') == key_of(inner)


@pytest.mark.parametrize(
    "bad", [b"", b'""', b'"', b'"a', b"a b", b"a\tb", "é".encode(), b"\x7f", b"x" * 256, b'"' + b"x" * 256 + b'"']
)
def test_a_malformed_key_is_refused_and_not_taken_for_none(bad: bytes) -> None:
    with pytest.raises(Problem) as refused:
        key_of(bad)
    assert (refused.value.status, refused.value.name) == (400, "malformed")


def test_two_keys_are_refused() -> None:
    with pytest.raises(Problem):
        key_of(b"a", b"a")


@given(st.binary(max_size=300))
def test_whatever_the_header_holds_it_is_a_key_or_a_problem(value: bytes) -> None:
    try:
        key = key_of(value)
    except Problem:
        return
    assert key is not None
    assert key.isascii()
    assert key.isprintable()
    assert 1 <= len(key) <= 255


# ── P5: what id a key makes


def test_p5_a_key_makes_the_same_id_in_every_process() -> None:
    other_process = OrderIds("a secret that all processes share")
    assert IDS.derive("shop", "k1", "2 laptops") == other_process.derive("shop", "k1", "2 laptops")


def test_p5_other_clients_other_keys_and_other_orders_make_other_ids() -> None:
    parts = ("", "a", "ab"), ("c", "bc", "abc"), ("", "c", "bc")
    made = {IDS.derive(client, key, request) for client, key, request in product(*parts)}
    assert len(made) == 27


def test_p5_nobody_else_can_say_which_id_a_key_makes() -> None:
    assert OrderIds("another secret, as long as the first").derive("", "k1", "") != IDS.derive("", "k1", "")


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255))
def test_a_derived_id_is_one_of_ours(key: str) -> None:
    order_id = IDS.derive("", key, "")
    assert IDS.is_ours(order_id)
    assert UUID(order_id).version == 8
    assert UUID(order_id).int >> 40 & 1 == 1


def test_derived_and_minted_ids_never_meet() -> None:
    assert all(UUID(IDS.mint()).int >> 40 & 1 == 0 for _ in range(1000))


@pytest.mark.parametrize("key", ["k1", UUID7])
def test_p5_the_orders_of_one_bulk_request_have_ids_of_their_own(key: str) -> None:
    ids = IDS.derive_many("", key, "a", 1024)
    others = ("shop", key, "a"), ("", key + "x", "a"), ("", key, "b")
    assert len({*ids, *(it for other in others for it in IDS.derive_many(*other, 1024))}) == 4 * 1024
    assert IDS.derive_many("", key, "a", 3) == ids[:3]
    assert all(IDS.is_ours(it) and UUID(it).version == 8 and UUID(it).int >> 40 & 1 for it in ids)
    assert {accepted_at_ms(it) for it in ids} == {accepted_at_ms(ids[0])}


def test_a_changed_bit_is_not_one_of_ours() -> None:
    value = UUID(IDS.derive("", UUID7, "")).int
    assert not any(IDS.is_ours(str(UUID(int=value ^ 1 << bit))) for bit in range(128))


def test_a_uuid7_key_keeps_its_time_so_that_inserts_stay_at_the_right_edge() -> None:
    assert accepted_at_ms(IDS.derive("", UUID7, "")) == UUID(UUID7).int >> 80
    assert IDS.derive("", UUID7, "") != IDS.derive("", UUID7.replace("7199", "7198"), "")


def test_other_keys_spread_over_the_whole_range() -> None:
    seeded = random.Random(1)
    times = {accepted_at_ms(IDS.derive("", str(UUID(int=seeded.getrandbits(128), version=4)), "")) for _ in range(500)}
    assert len(times) == 500
    assert max(times) - min(times) > 2**47


# ── what is remembered


def test_the_same_order_has_one_fingerprint_and_another_has_another() -> None:
    laptop = str(uuid4())
    two, three, other = OrderRequest(laptop, 2), OrderRequest(laptop, 3), OrderRequest(str(uuid4()), 2)
    assert fingerprint_of(two) == fingerprint_of(OrderRequest(laptop, 2))
    assert fingerprint_of(two) == fingerprint_of(to_order("", two, laptop, Decimal(1), datetime.now(UTC)))
    assert len({fingerprint_of(two), fingerprint_of(three), fingerprint_of(other)}) == 3


ID, OLD_ID, OTHER_ID = "1" * 32, "0" * 32, "e" * 32


def held(order_id: str, state: str) -> bytes:
    return f"{order_id}{state}{'w' * 16}{'0' * 26}priced".encode()


def test_what_stood_at_a_key_says_how_a_request_begins() -> None:
    claim, ids = Claim("name", ID, "me", "new"), [ID, OLD_ID]
    assert judge(b"", claim, ids) == claim
    for order_id in ids:  # under the key of today, or one before it
        assert judge(held(order_id, "d"), claim, ids) == Replay(order_id, "priced")
        for state in ("f", "u"):
            assert judge(held(order_id, state), claim, ids) is KeyConflict.IN_FLIGHT
        doubt = replace(claim, order_id=order_id, priced="priced", in_doubt=True, made="0" * 13)
        assert judge(held(order_id, "?"), claim, ids) == doubt
        assert judge(held(order_id, "!"), claim, ids) == replace(doubt, is_sure=False)
    for other in (held(OTHER_ID, "d"), held(OTHER_ID, "?"), b"{}"):
        assert judge(other, claim, ids) == other


def test_no_two_keys_have_one_name_and_no_name_is_long() -> None:
    parts = ("", "a", "a.b"), ("k", "a:k", "bulk:a:k", "x" * 255), (False, True), ("one:", "two:")
    names = {name_of(namespace, client, key, is_bulk=is_bulk) for client, key, is_bulk, namespace in product(*parts)}
    assert len(names) == 48
    assert max(map(len, names)) < 50


_EARLIEST, _LATEST = datetime(1970, 1, 1), datetime(9999, 1, 1)  # noqa: DTZ001  (hypothesis wants them so)


@given(st.decimals(0, 10**10, places=2), st.datetimes(_EARLIEST, _LATEST))
def test_p5_what_is_remembered_of_an_order_is_all_of_it(price: Decimal, at: datetime) -> None:
    request = OrderRequest(str(uuid4()), 3)
    order = Order(str(uuid4()), request.product_id, 3, price, price * 3, at.replace(tzinfo=UTC), status="PENDING")
    assert unpack(pack(201, [order]), [order.id], [request]) == (201, [order])


def test_p5_refusals_are_remembered_by_name_in_their_places() -> None:
    bad = problems.invalid("/x", "no")
    requests: list[Request] = [OrderRequest("a", 1), bad, *(OrderRequest(it, 1) for it in "bc")]
    results = [problems.out_of_stock("a"), bad, problems.unknown_product("b"), problems.store_unavailable()]
    _, again = unpack(pack(202, results), ["", "", "", ""], requests)
    assert [it.body() for it in again if isinstance(it, Problem)] == [it.body() for it in results]


def test_p8_what_is_remembered_is_small() -> None:
    now, many = datetime.now(UTC), [OrderRequest(str(uuid4()), 1) for _ in range(1000)]
    orders = [Order(str(uuid4()), it.product_id, 1, Decimal("1500.00"), Decimal("1500.00"), now) for it in many]
    assert len(pack(202, orders[:1])) < 50
    assert len(pack(202, orders)) < 2_100


@pytest.mark.parametrize("junk", ["", "{}", pack(202, []), """[202,["1 x"],[0]]"""])
def test_what_is_not_packed_by_us_is_a_value_error(junk: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (several)
        unpack(junk, [str(uuid4())], [OrderRequest("a", 1)])


def test_only_a_refusal_is_known_to_have_left_no_order_behind() -> None:
    assert not may_be_accepted(problems.overloaded())
    assert not may_be_accepted(problems.unknown_product("x"))
    assert may_be_accepted(unknown_outcomes.broker_is_silent())
    assert may_be_accepted(asyncio.CancelledError())
    assert may_be_accepted(ValueError())
