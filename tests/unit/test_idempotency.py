"""Idempotency keys: how they are written, what ids they make, and what a remembered answer says."""

import asyncio
import random
from dataclasses import replace
from itertools import product
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.idempotency import (
    Claim,
    Replay,
    Taken,
    fingerprint_of,
    idempotency_key,
    judge,
    may_be_accepted,
    name_of,
)
from pipeline.order_ids import OrderIds
from tests.orders import accepted_at_ms
from web import problems
from web.problems import Problem

IDS = OrderIds("a secret that all processes share")
UUID7 = "01a20267-97ad-7199-a6a6-540000cf26ec"


def key_of(*values: bytes) -> str | None:
    return idempotency_key({"type": "http", "headers": [(b"idempotency-key", value) for value in values]})


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
    assert fingerprint_of(laptop, 2) == fingerprint_of(laptop, 2)
    assert len({fingerprint_of(laptop, 2), fingerprint_of(laptop, 3), fingerprint_of(str(uuid4()), 2)}) == 3


def test_what_stood_at_a_key_says_how_a_request_begins() -> None:
    claim = Claim("replay::k", fingerprint_of("a", 1).hex(), "me")
    mark, other = claim.mark.encode(), fingerprint_of("b", 1).hex().encode()
    assert judge(b"", claim) == claim
    assert judge(mark + b"?", claim) == replace(claim, in_doubt=True)
    assert judge(mark + b".somebody", claim) is Taken.IN_FLIGHT
    assert judge(mark + b"!somebody", claim) is Taken.IN_FLIGHT
    assert judge(mark + b"202{}", claim) == Replay(202, b"{}")
    assert judge(mark + b"201", claim) == Replay(201, b"")
    for state in (b".somebody", b"!somebody", b"202{}", b"?"):
        assert judge(other + state, claim) is Taken.REUSED
    assert judge(b"{}", claim) is Taken.REUSED


def test_no_two_keys_have_one_name() -> None:
    parts = ("", "a", "a.b"), ("k", "a:k", "replay::k"), (False, True)
    names = {name_of(client, key, is_bulk=is_bulk) for client, key, is_bulk in product(*parts)}
    assert len(names) == 18


def test_only_a_refusal_is_known_to_have_left_no_order_behind() -> None:
    assert not may_be_accepted(problems.overloaded())
    assert not may_be_accepted(problems.unknown_product("x"))
    assert may_be_accepted(problems.outcome_unknown())
    assert may_be_accepted(asyncio.CancelledError())
    assert may_be_accepted(ValueError())
