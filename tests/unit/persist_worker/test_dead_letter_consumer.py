"""Dead-lettered messages are split into orders, byte for byte, and sorted by what is still to be done."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from persist_worker.dead_letter_consumer import KnownOrder, XDeath, sort_letters, split_messages
from pipeline.broker.deliveries import Delivery
from pipeline.contract import topology
from pipeline.contract.orders import SCHEMA, SCHEMAS, encode_order
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from tests.support.data.orders import body_of, new_product_id, order

A = new_product_id()
ACCEPTED, CREATED = topology.ORDERS_ACCEPTED_QUEUE, topology.ORDERS_CREATED_QUEUE
CANCEL_REQUESTED = topology.ORDERS_CANCEL_REQUESTED_QUEUE


def death(queue: str, reason: str = "delivery_limit") -> dict[str, object]:
    return {"count": 1, "reason": reason, "queue": queue, "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)}


def delivery(body: bytes, *deaths: dict[str, object], schema: object = SCHEMA) -> Delivery:
    return Delivery(1, body, schema, 1, redelivered=False, deaths=list(deaths))


def known(quantity: int = 1, product_id: str = A, *, is_decided: bool = False) -> KnownOrder:
    return KnownOrder(((product_id, quantity),), is_decided)


def test_p4_each_order_of_a_message_is_a_letter_of_its_own() -> None:
    first, second = order(A), order(A)
    letters = sort_letters(split_messages([delivery(body_of(first, second), death(ACCEPTED))]), {}).parked[
        Stage.PERSIST
    ]
    assert [(it.order_id, it.body, it.reason) for it in letters] == [
        (it.id, body_of(it), "delivery_limit") for it in (first, second)
    ]
    assert letters[0].detail == (
        "the broker gave it up in 'orders.accepted': delivery_limit, 1 time(s), first at 2026-01-02 03:04:05+00:00"
    )


def test_a_letter_has_the_bytes_of_its_order_also_those_that_nobody_knows() -> None:
    encoded = encode_order(order(A))[:-1] + b', "new": [1 ,2]}'
    (it,) = split_messages([delivery(b"[ " + encoded + b" ]", death(ACCEPTED))])
    assert it.letter.body == b"[" + encoded + b"]"
    assert it.order is not None


def test_p2_what_is_still_to_be_done_says_the_stage_and_not_the_queue() -> None:
    unstored, stored, decided, stranger = (order(A) for _ in range(4))
    has = {
        stored.id: known(),
        decided.id: known(is_decided=True),
        stranger.id: known(quantity=2, is_decided=True),
    }
    for queue, is_forwarded in ((ACCEPTED, True), (CREATED, False), ("another", True)):
        found = sort_letters(
            split_messages([delivery(body_of(unstored, stored, decided, stranger), death(queue))]), has
        )
        assert {stage: [it.order_id for it in letters] for stage, letters in found.parked.items()} == {
            Stage.PERSIST: [unstored.id, stranger.id],
            Stage.STOCK: [] if is_forwarded else [stored.id],
            Stage.CANCEL: [],
        }
        assert [it.order_id for it in found.forwarded] == ([stored.id] if is_forwarded else [])


def test_p10_what_cannot_be_split_is_one_letter_of_its_queues_stage() -> None:
    noise, other = b"\x00 no JSON", body_of(order(A))
    deliveries = [delivery(noise, death(CREATED)), delivery(other, death(ACCEPTED), schema=SCHEMAS[-1] + 1)]
    letters = sort_letters(split_messages(deliveries), {}).parked
    assert [(it.order_id, it.body, it.schema) for it in letters[Stage.STOCK]] == [(None, noise, SCHEMA)]
    assert [(it.order_id, it.body, it.schema) for it in letters[Stage.PERSIST]] == [(None, other, SCHEMAS[-1] + 1)]


def test_a_letter_keeps_the_schema_of_its_message() -> None:
    """A replay says it again, so a worker that does not know the order's members parks it and does not drop them."""
    plain, detailed = order(A), order(A, reference="4711")
    deliveries = [delivery(body_of(plain), death(ACCEPTED)), delivery(body_of(detailed), death(ACCEPTED), schema=2)]
    letters = sort_letters(split_messages(deliveries), {}).parked[Stage.PERSIST]
    assert [(it.order_id, it.schema) for it in letters] == [(plain.id, 1), (detailed.id, 2)]


def test_p10_what_is_no_order_costs_only_itself_and_has_its_id() -> None:
    good, bad = order(A), order(A)
    broken = b'{"id":"' + bad.id.encode() + b'"}'
    those = split_messages([delivery(b"[" + broken + b"," + encode_order(good) + b"]", death(CREATED))])
    letters = sort_letters(those, {good.id: known(), bad.id: known(is_decided=True)}).parked
    assert [it.order_id for it in letters[Stage.STOCK]] == [bad.id, good.id]


def test_p10_a_cancellation_that_the_broker_gave_up_names_no_order_which_goes_on_without_it() -> None:
    """With the id, a letter would make the order FAILED."""
    it = order(A)
    element = b'{"order_id":"' + it.id.encode() + b'","id":"' + it.id.encode() + b'"}'
    those = split_messages([delivery(b"[" + element + b"," + encode_order(it) + b"]", death(CANCEL_REQUESTED))])
    letters = sort_letters(those, {it.id: known()}).parked
    assert [(one.order_id, one.body) for one in letters.pop(Stage.CANCEL)] == [
        (None, b"[" + element + b"]"),
        (None, body_of(it)),
    ]
    assert not any(letters.values())


def test_the_reason_is_the_brokers_word_if_it_is_one() -> None:
    assert XDeath.of([death(ACCEPTED, "rejected"), death(CREATED)]).reason == "rejected"
    strange: list[object] = [
        None,
        [],
        {},
        "x",
        [None],
        [[]],
        [{}],
        [{"reason": ["x"]}],
        [{"reason": "x\0", "queue": 1}],
    ]
    for deaths in strange:
        assert XDeath.of(deaths).reason == Reason.DEAD_LETTERED
        assert "\0" not in XDeath.of(deaths).detail


@given(st.lists(st.binary(max_size=40) | st.just(body_of(order(A))), max_size=6), st.integers() | st.none())
def test_nothing_that_comes_raises_and_nothing_is_dropped(bodies: list[bytes], schema: int | None) -> None:
    those = split_messages(delivery(body, death(ACCEPTED), schema=schema) for body in bodies)
    if schema not in SCHEMAS:
        assert [it.letter.body for it in those] == bodies
    assert sum(map(len, sort_letters(those, {}).parked.values())) == len(those)
