"""Each invariant of the chaos suite finds the fault that it is for, planted here, and no fault in a sound state."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal

import pytest

from proof.accounting import Stock
from tests.chaos.account.invariants import (
    LEAST_SINGLES,
    Broken,
    Decided,
    FinalState,
    Stored,
    i1_no_order_is_lost,
    i2_each_is_there_once,
    i3_stock_adds_up,
    i4_what_is_stored_was_sent,
    i5_no_bust_is_lost,
    i5_the_cache_is_true,
    i6_nobody_waits_and_nothing_swells,
    i7_throughput_is_back,
    i8_the_fault_is_named,
)
from tests.chaos.account.signs import Counts, Logged, Restarts
from tests.chaos.scene.attempts import PRICE, Attempt, Intent, Verdict, WantedOrder, intents_of

UNIT = Decimal(PRICE)
OK = WantedOrder("p", 3)
UNKNOWN = WantedOrder("p", 5)
NEVER_STORED = WantedOrder("p", 7)
REFUSED = WantedOrder("q", 9)


def attempt(wanted: WantedOrder, status: int, told: str = "", took_s: float | None = 1.0) -> Attempt:
    return Attempt(wanted, 100.0, None if took_s is None else 100.0 + took_s, status, told)


def row(id_: str, product_id: str = "p", quantity: int = 3, price: Decimal = UNIT) -> Stored:
    return Stored(id_, product_id, quantity, price, price * quantity)


# One order was told OK, one of two that nobody knows of was stored, one was refused.
ATTEMPTS = [
    attempt(OK, 202, "a"),
    attempt(UNKNOWN, 503),
    attempt(NEVER_STORED, 0, "reset"),
    attempt(REFUSED, 422, "unknown-product"),
]
INTENTS = intents_of(ATTEMPTS)
STATE = FinalState(
    [row("a"), row("b", quantity=5)],
    [Decided("a", "p", 3), Decided("b", "p", 5)],
    [],
    [Stock("p", 92, 100, 8, 8)],
    {"orders.accepted": 0},
)


def i1(state: FinalState, intents: Sequence[Intent] = INTENTS) -> Broken:
    return i1_no_order_is_lost(intents, state)


def i2(state: FinalState, intents: Sequence[Intent] = INTENTS) -> Broken:
    return i2_each_is_there_once(intents, state)


def i3(state: FinalState, meanwhile: Sequence[str] = ()) -> Broken:
    return i3_stock_adds_up(state, meanwhile)


def i4(state: FinalState, intents: Sequence[Intent] = INTENTS) -> Broken:
    return i4_what_is_stored_was_sent(intents, state, UNIT)


@pytest.mark.parametrize("invariant", [i1, i2, i3, i4])
def test_nothing_is_found_in_books_that_are_right(invariant: Callable[[FinalState], Broken]) -> None:
    assert invariant(STATE) == []


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (replace(STATE, stored=[row("b", quantity=5)], decided=[Decided("b", "p", 5)]), "is not there: a"),
        (replace(STATE, decided=[Decided("a", "p", 3)]), "never decided: b"),
        (replace(STATE, queued={"orders.created": 2}), "2 messages are left in orders.created"),
    ],
    ids=["not stored", "undecided", "still queued"],
)
def test_i1_finds_what_is_lost(state: FinalState, expected: str) -> None:
    assert [line for line in i1(state) if expected in line]


def test_i1_takes_what_is_parked_for_kept() -> None:
    assert i1(replace(STATE, stored=[], decided=[], parked=["a"])) == []
    assert i1(replace(STATE, decided=[Decided("b", "p", 5)], parked=["a"])) == []


@pytest.mark.parametrize(
    ("state", "intents", "expected"),
    [
        (replace(STATE, stored=[*STATE.stored, row("a")]), INTENTS, "2 times in orders: a"),
        (replace(STATE, decided=[*STATE.decided, Decided("a", "p", 3)]), INTENTS, "2 times in the ledger: a"),
        (replace(STATE, decided=[*STATE.decided, Decided("c", "p", 3)]), INTENTS, "not stored: c"),
        (STATE, intents_of([*ATTEMPTS, attempt(WantedOrder("p", 4), 202, "a")]), "told to 2 clients: a"),
        (
            STATE,
            intents_of([attempt(WantedOrder("p", 3, "k"), 202, "a"), attempt(WantedOrder("p", 3, "k"), 202, "b")]),
            "one key, 2 orders: ['a', 'b']",
        ),
    ],
    ids=["orders", "ledger", "verdict of nothing", "told twice", "a key twice"],
)
def test_i2_finds_what_is_there_twice(state: FinalState, intents: Sequence[Intent], expected: str) -> None:
    assert [line for line in i2(state, intents) if expected in line]


@pytest.mark.parametrize(
    "stock",
    [
        Stock("p", -1, 7, 8, 8),
        Stock("p", 93, 100, 8, 8),
        Stock("p", 92, 100, 8, 9),
        Stock("p", None, 0, 0, 0),
    ],
    ids=["negative", "does not add up", "taken is not what was ordered", "no row"],
)
def test_i3_finds_stock_that_is_wrong_at_the_end(stock: Stock) -> None:
    assert len(i3(replace(STATE, stocks=[stock]))) == 1


def test_i3_finds_stock_that_was_wrong_meanwhile() -> None:
    assert i3(STATE, ["p: -1"]) == ["meanwhile: p: -1"]


@pytest.mark.parametrize(
    ("stored", "decided", "expected"),
    [
        (row("a", quantity=4), Decided("a", "p", 4), "not what was sent"),
        (row("a", product_id="q"), Decided("a", "q", 3), "not what was sent"),
        (row("a", price=Decimal("12.51")), Decided("a", "p", 3), "not the price"),
        (Stored("a", "p", 3, UNIT, UNIT), Decided("a", "p", 3), "not the price"),
        (row("a"), Decided("a", "p", 2), "decided as another"),
    ],
    ids=["quantity", "product", "price", "total", "verdict"],
)
def test_i4_finds_a_row_that_is_not_what_was_sent(stored: Stored, decided: Decided, expected: str) -> None:
    assert [line for line in i4(FinalState([stored], [decided])) if expected in line]


@pytest.mark.parametrize(
    "extra",
    [row("c", quantity=5), row("c", "q", 9), row("c", quantity=1)],
    ids=["an unknown one twice", "a refused one", "one that nobody sent"],
)
def test_i4_finds_rows_that_nobody_may_have_sent(extra: Stored) -> None:
    assert len(i4(replace(STATE, stored=[*STATE.stored, extra]))) == 1


def test_i4_explains_no_row_with_an_order_that_was_retried_until_it_was_ok() -> None:
    intents = intents_of([attempt(WantedOrder("p", 3, "k"), 0, "reset"), attempt(WantedOrder("p", 3, "k"), 202, "a")])
    assert i4(FinalState([row("a")], [Decided("a", "p", 3)]), intents) == []
    assert len(i4(FinalState([row("a"), row("b")], []), intents)) == 1


def test_i5_finds_what_the_cache_has_that_is_not_so() -> None:
    assert i5_the_cache_is_true({"p": ("x", 1)}, {"p": ("x", 1)}) == []
    assert len(i5_the_cache_is_true({"p": ("x", 2), "q": 1}, {"p": ("x", 1)})) == 2
    assert len(i5_the_cache_is_true({}, {"p": ("x", 1)})) == 1


def test_i5_finds_a_bust_that_was_lost_and_that_none_was_looked_for() -> None:
    sold = {f"p{number}": 998 for number in range(LEAST_SINGLES)}
    assert i5_no_bust_is_lost({}, sold) == []
    assert i5_no_bust_is_lost({"p3": 998}, sold) == []
    assert i5_no_bust_is_lost({"p3": 1_000}, sold) == ["p3: sold once, cached 1000, in the database 998"]
    assert len(i5_no_bust_is_lost({}, {"p1": 998})) == 1


def test_i6_finds_who_waited_too_long_and_what_swelled() -> None:
    assert i6_nobody_waits_and_nothing_swells(ATTEMPTS, 2, {"ingest_api": 10}, 100) == []
    late = [attempt(OK, 202, "a", took_s=3), attempt(OK, 0, took_s=None), attempt(OK, 0, "timeout", took_s=1)]
    assert i6_nobody_waits_and_nothing_swells(late, 2, {}, 100) == ["3 requests were not answered within 2 s"]
    assert i6_nobody_waits_and_nothing_swells([], 2, {"ingest_api": 101}, 100) == ["ingest_api took 101 MB"]


def test_i7_finds_throughput_that_is_not_back_or_late() -> None:
    assert i7_throughput_is_back({"accepted": 0.0, "decided": 5.0}, 5) == []
    assert len(i7_throughput_is_back({"accepted": None, "decided": 5.1}, 5)) == 2


def test_i8_finds_signs_that_were_not_seen_and_that_none_was_looked_for() -> None:
    log, metric, restart = Logged("s", "x"), Counts("s", "y"), Restarts("s")
    assert i8_the_fault_is_named([log, metric], [metric, log]) == []
    assert i8_the_fault_is_named([log, restart], [restart, log]) == []
    assert i8_the_fault_is_named([log, metric], [log]) == [f"not told: {metric}"]
    assert i8_the_fault_is_named([log], [log]) == ["no metrics were looked at"]
    assert i8_the_fault_is_named([metric], [metric]) == ["no log was looked at"]
    assert len(i8_the_fault_is_named([], [])) == 2


# ── what a client knows


@pytest.mark.parametrize(
    ("status", "told", "verdict"),
    [
        (202, "a", Verdict.OK),
        (201, "a", Verdict.OK),
        (422, "unknown-product", Verdict.FAIL),
        (409, "sold-out", Verdict.FAIL),
        (409, "request-in-flight", Verdict.UNKNOWN),
        (503, "broker-unavailable", Verdict.UNKNOWN),
        (500, "", Verdict.UNKNOWN),
        (0, "timeout", Verdict.UNKNOWN),
    ],
)
def test_what_an_answer_means(status: int, told: str, verdict: Verdict) -> None:
    assert attempt(OK, status, told).verdict is verdict


def test_all_requests_with_a_key_are_one_order_and_without_each_is_one() -> None:
    keyed, plain = WantedOrder("p", 1, "k"), WantedOrder("p", 1)
    intents = intents_of([attempt(keyed, 503), attempt(plain, 503), attempt(keyed, 202, "a"), attempt(plain, 202, "b")])
    assert [(it.verdict, it.ids) for it in intents] == [
        (Verdict.OK, {"a"}),
        (Verdict.UNKNOWN, set()),
        (Verdict.OK, {"b"}),
    ]


def test_an_order_that_was_ok_stays_so_and_otherwise_its_last_answer_counts() -> None:
    keyed = WantedOrder("p", 1, "k")
    assert intents_of([attempt(keyed, 202, "a"), attempt(keyed, 503)])[0].verdict is Verdict.OK
    assert intents_of([attempt(keyed, 0), attempt(keyed, 422)])[0].verdict is Verdict.FAIL
