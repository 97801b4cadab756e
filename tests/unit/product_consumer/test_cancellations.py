"""Who may cancel what, in the pure functions; and what of a message is a cancellation."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.broker.deliveries import Delivery
from pipeline.contract.cancellations import (
    SCHEMA,
    Cancellation,
    CancelOutcome,
    InvalidCancellation,
    decode_cancellation,
    encode_cancellation,
)
from pipeline.contract.orders import join_orders
from product_consumer.cancel import effect_of, outrun
from product_consumer.cancel_consumer import read_cancellations
from product_consumer.cancellations import Settled, Waiting, orders_with, settle_each
from tests.golden import CANCEL_V1

ID = "01a20267-97ad-8199-a6a6-540000cf26ec"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

waiting = st.lists(
    st.builds(Waiting, st.sampled_from("abc"), st.sampled_from(["shop", "rival"]), st.booleans()),
    unique=True,
    max_size=8,
)
owners = st.dictionaries(st.sampled_from("abc"), st.none() | st.just("shop"))
effects = st.dictionaries(st.sampled_from("abc"), st.sampled_from(CancelOutcome).filter(lambda it: it != "not_yours"))


@given(waiting, owners, effects)
def test_p4_one_cancellation_of_an_order_has_the_effect_and_only_of_one_who_may(
    asked: list[Waiting], owners: dict[str, str | None], effects: dict[str, CancelOutcome]
) -> None:
    settled = settle_each(asked, owners, effects)
    assert [it.cancellation for it in settled] == asked
    for order_id in "abc":
        mine = [it for it in settled if it.cancellation.order_id == order_id]
        strangers = [it for it in mine if order_id in owners and not it.cancellation.may_cancel(owners[order_id])]
        assert all(it.outcome is CancelOutcome.NOT_YOURS for it in strangers)
        others = [it.outcome for it in mine if it not in strangers]
        assert others == [effects.get(order_id, CancelOutcome.TOO_LATE), *others[1:]][: len(others)]
        assert set(others[1:]) <= {CancelOutcome.TOO_LATE}


@pytest.mark.parametrize(
    ("verdict", "is_stored", "is_cancelled", "effect"),
    [
        (None, False, False, None),
        (None, True, False, "before_verdict"),
        ("PROCESSED", True, False, "returned"),
        ("PROCESSED", True, True, "too_late"),
        ("PROCESSED", False, False, "too_late"),
        ("FAILED", True, False, "too_late"),
        ("FAILED", False, False, "too_late"),
        ("CANCELLED", True, True, "too_late"),
    ],
)
def test_p4_the_verdict_says_what_cancelling_does(
    verdict: str | None, is_stored: bool, is_cancelled: bool, effect: str | None
) -> None:
    assert effect_of(verdict, is_stored=is_stored, is_cancelled=is_cancelled) == effect


def test_a_faster_verdict_makes_a_cancellation_too_late() -> None:
    those = [Settled(Waiting(it, "", sees_all=True), CancelOutcome.BEFORE_VERDICT) for it in "ab"]
    assert orders_with(CancelOutcome.TOO_LATE, outrun(those, {"a"})) == {"b"}
    assert orders_with(CancelOutcome.BEFORE_VERDICT, outrun(those, {"a"})) == {"a"}


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=200))
def test_a_reason_survives_the_wire(reason: str) -> None:
    it = Cancellation(ID, NOW, "shop", sees_all=True, reason=reason)
    assert decode_cancellation(encode_cancellation(it)) == it


@pytest.mark.parametrize(
    "encoded",
    [
        b"no JSON",
        b"[" * 10_000,
        b"\xff",
        b"{}",
        encode_cancellation(Cancellation(ID.upper(), NOW)),
        encode_cancellation(Cancellation(f"{ID}\n", NOW)),
        encode_cancellation(Cancellation(ID, NOW, "x" * 65)),
        encode_cancellation(Cancellation(ID, NOW, "a\0b")),
        encode_cancellation(Cancellation(ID, NOW, reason="")),
        encode_cancellation(Cancellation(ID, NOW, reason="x" * 201)),
        encode_cancellation(Cancellation(ID, NOW, reason="a\0")),
        encode_cancellation(Cancellation(ID, NOW.replace(tzinfo=None))),
        encode_cancellation(Cancellation(ID, datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))))),
        encode_cancellation(Cancellation(ID, datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-14))))),
    ],
)
def test_p10_what_postgresql_would_refuse_is_no_cancellation(encoded: bytes) -> None:
    with pytest.raises(InvalidCancellation):
        decode_cancellation(encoded)


@given(st.binary(max_size=60), st.sampled_from([SCHEMA, 2, None, "1"]))
def test_p10_no_message_stops_the_reader(body: bytes, schema: object) -> None:
    found = read_cancellations([Delivery(1, body, schema, 1, redelivered=False)])
    assert all(it.order_id is None for it in found.dead)


# ── golden: these bytes are in queues


def test_a_cancellation_is_written_byte_by_byte_as_ever_and_read_for_ever() -> None:
    assert join_orders(map(encode_cancellation, CANCEL_V1.cancellations)) == CANCEL_V1.requested
    found = read_cancellations([Delivery(1, CANCEL_V1.requested, 1, 2, redelivered=False)])
    assert (found.cancellations, found.dead) == (CANCEL_V1.cancellations, [])


def test_a_reader_ignores_members_that_it_does_not_know() -> None:
    more = CANCEL_V1.requested.replace(b'"order_id"', b'"region":{"a":[1]},"order_id"')
    assert read_cancellations([Delivery(1, more, 1, 2, redelivered=False)]).cancellations == CANCEL_V1.cancellations
