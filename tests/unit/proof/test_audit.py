"""Accounting by set difference: whatever the database holds, every order falls into exactly one heap."""

from collections import Counter
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proof.accounting import (
    CANCELLED,
    PROCESSED,
    STORED,
    Account,
    Reconciliation,
    Row,
    Sent,
    Stock,
    Verdicts,
    is_oversold,
    settle,
    sort_answers,
    unexplained,
)
from proof.accounting_sql import spread
from proof.load_result import LoadResult, Request
from proof.orders import Order

NO_TIMES = Verdicts(None, None, None)
APPLE, PEAR = Order("apple", 1), Order("pear", 3)

ids = st.sampled_from([f"id-{number}" for number in range(8)])
BASKET = Order("apple", 1, (("pear", 3),), "4711-a", (("cart", "c-1"), ("channel", "app")))
orders_ = st.sampled_from([APPLE, PEAR, Order("apple", 2), BASKET])
accepted_ = st.dictionaries(ids, orders_)
rows_ = st.lists(st.tuples(ids, orders_))


def row(id_: str, order: Order, outcome: str = STORED) -> Row:
    return Row(id_, order, outcome)


def reconciliation(accepted: dict[str, Order], *rows: Row, knows_details: bool = True) -> Reconciliation:
    made = Reconciliation(accepted, knows_details=knows_details)
    made.cross_off(rows)
    return made


def account(
    sent: Sent, orders: list[Row], ledger: list[Row], parked: list[str] | None = None, half: tuple[str, ...] = ()
) -> Account:
    accepted = sent.accepted
    """The verdicts in `ledger` know no reference and no metadata."""
    verdicts = [it._replace(order=it.order.without_details) for it in ledger]
    decided = reconciliation(accepted, *verdicts, knows_details=False)
    return settle(sent, reconciliation(accepted, *orders), decided, parked or [], [], NO_TIMES, half)


@given(accepted_, rows_)
def test_crossing_is_set_difference(accepted: dict[str, Order], rows: list[tuple[str, Order]]) -> None:
    found = reconciliation(accepted, *(row(*each) for each in rows))
    named = {id_ for id_, _ in rows}
    first = dict(reversed(rows))
    assert found.missing == accepted.keys() - named
    assert found.extra == {id_: first[id_] for id_ in named - accepted.keys()}
    assert found.repeated == len(rows) - len(named)
    assert found.altered == {id_ for id_ in named & accepted.keys() if first[id_] != accepted[id_]}
    assert found.outcomes.total() == len(named & accepted.keys())


@given(accepted_, rows_, st.integers(0, 30))
def test_crossing_does_not_depend_on_how_rows_are_fetched(
    accepted: dict[str, Order], rows: list[tuple[str, Order]], cut: int
) -> None:
    whole, parts = Reconciliation(accepted), Reconciliation(accepted)
    made = [row(*each) for each in rows]
    whole.cross_off(made)
    parts.cross_off(made[:cut])
    parts.cross_off(made[cut:])
    assert (whole.missing, whole.altered, whole.repeated) == (parts.missing, parts.altered, parts.repeated)
    assert (whole.extra, whole.outcomes) == (parts.extra, parts.outcomes)


@given(accepted_, st.data())
def test_a_faithful_database_is_clean(accepted: dict[str, Order], data: st.DataObject) -> None:
    """Also with requests of unknown outcome, some of which were stored, and with dead letters."""
    unknown = data.draw(st.lists(orders_))
    kept = data.draw(st.lists(st.booleans(), min_size=len(unknown), max_size=len(unknown)))
    ghosts = [(f"ghost-{n}", order) for n, (order, keep) in enumerate(zip(unknown, kept, strict=True)) if keep]
    parked = data.draw(st.sets(st.sampled_from(sorted(accepted)))) if accepted else set()
    stored = [(id_, order) for id_, order in accepted.items() if id_ not in parked] + ghosts
    found = account(
        Sent(accepted, unknown=Counter(unknown)),
        [row(*each) for each in stored],
        [row(*each, PROCESSED) for each in stored],
        sorted(parked),
    )
    assert found.is_clean
    assert found.decided == len(accepted)
    assert found.failed.get("dead_letter", 0) == len(parked)
    assert found.unknown_stored == len(ghosts)


@given(st.dictionaries(ids, orders_, min_size=1), st.data())
def test_one_missing_row_is_one_lost_order(accepted: dict[str, Order], data: st.DataObject) -> None:
    victim = data.draw(st.sampled_from(sorted(accepted)))
    whole = [row(id_, order, PROCESSED) for id_, order in accepted.items()]
    short = [each for each in whole if each.id != victim]
    assert account(Sent(accepted), short, whole).lost == {victim: "not stored"}
    assert account(Sent(accepted), whole, short).lost == {victim: "no verdict"}
    assert account(Sent(accepted), short, short).lost_count == 1
    assert account(Sent(accepted), whole, whole).lost_count == 0


@given(st.dictionaries(ids, orders_, min_size=1), st.data())
def test_one_row_too_many_is_one_duplicate(accepted: dict[str, Order], data: st.DataObject) -> None:
    whole = [row(id_, order, PROCESSED) for id_, order in accepted.items()]
    again = data.draw(st.sampled_from([*whole, row("nobody-sent-this", APPLE, PROCESSED)]))
    assert account(Sent(accepted), [*whole, again], whole).duplicated == 1
    assert account(Sent(accepted), whole, [*whole, again]).duplicated == 1
    if again.id not in accepted:  # the same order in both tables is one order
        assert account(Sent(accepted), [*whole, again], [*whole, again]).duplicated == 1


def test_an_order_stored_as_another_is_lost() -> None:
    found = account(Sent({"a": APPLE}), [row("a", PEAR)], [row("a", APPLE, PROCESSED)])
    assert list(found.lost) == ["a"]


@pytest.mark.parametrize(
    "wrong",
    [
        BASKET._replace(more=(("pear", 2),)),
        BASKET._replace(reference="4711-A"),
        BASKET._replace(reference=None),
        BASKET._replace(metadata=BASKET.metadata[::-1]),
        BASKET._replace(metadata=BASKET.metadata[:1]),
    ],
)
def test_an_order_whose_lines_or_details_differ_is_lost(wrong: Order) -> None:
    sent = Sent({"a": BASKET})
    assert account(sent, [row("a", BASKET)], [row("a", BASKET, PROCESSED)]).is_clean
    assert list(account(sent, [row("a", wrong)], [row("a", BASKET, PROCESSED)]).lost) == ["a"]


def test_a_half_basket_is_that_and_nothing_else() -> None:
    """Whether it was answered or not, and whichever of its lines are there."""
    half = row("a", BASKET._replace(more=()))
    for sent, stored, decided in (
        (Sent({"a": BASKET}), [half], [row("a", BASKET, PROCESSED)]),
        (Sent({"a": BASKET}), [], []),
        (Sent(unknown=Counter([BASKET])), [half], []),
    ):
        found = account(sent, stored, decided, half=("a",))
        assert (found.half, found.lost_count, found.duplicated) == (("a",), 0, 0)
        assert not found.is_clean


def test_a_request_of_unknown_outcome_explains_a_row_with_its_details_alone() -> None:
    stored, decided = [row("x", BASKET)], [row("x", BASKET, PROCESSED)]
    assert account(Sent(unknown=Counter([BASKET])), stored, decided).is_clean
    assert account(Sent(unknown=Counter([BASKET._replace(reference="other")])), stored, decided).duplicated == 1


@pytest.mark.parametrize(
    ("outcome", "asked", "perhaps", "wrong"),
    [
        (CANCELLED, {"a"}, set(), None),
        ("out_of_stock", {"a"}, set(), None),
        (PROCESSED, {"a"}, set(), "PROCESSED, and its cancellation was accepted"),
        (CANCELLED, set(), {"a"}, None),
        (PROCESSED, set(), {"a"}, None),
        (CANCELLED, set(), set(), "CANCELLED, and nobody asked for it"),
    ],
)
def test_each_cancellation_has_one_winner(outcome: str, asked: set[str], perhaps: set[str], wrong: str | None) -> None:
    sent = Sent({"a": APPLE}, cancelled=asked, perhaps_cancelled=perhaps)
    found = account(sent, [row("a", APPLE)], [row("a", APPLE, outcome)])
    assert found.lost == ({"a": wrong} if wrong else {})
    assert found.decided == 1
    assert found.cancelled == (outcome == CANCELLED)


def test_a_cancelled_dead_letter_has_its_winner_later() -> None:
    assert account(Sent({"a": APPLE}, cancelled={"a"}), [], [], ["a"]).is_clean


def test_verdicts_are_counted_by_reason() -> None:
    sent = Sent({"a": APPLE, "b": PEAR, "c": PEAR})
    found = account(
        sent, [row("a", APPLE), row("b", PEAR)], [row("a", APPLE, PROCESSED), row("b", PEAR, "out_of_stock")], ["c"]
    )
    assert (found.stored, found.processed, found.decided) == (2, 1, 3)
    assert found.failed == {"out_of_stock": 1, "dead_letter": 1}
    assert found.is_clean


def test_dead_letters_of_others_are_not_ours() -> None:
    assert account(Sent({"a": APPLE}), [row("a", APPLE)], [row("a", APPLE, PROCESSED)], ["z"]).is_clean


def test_an_unknown_request_explains_one_row_of_its_own_kind() -> None:
    extra = {"x": APPLE, "y": APPLE, "z": PEAR}
    assert unexplained(extra, Counter()) == 3
    assert unexplained(extra, Counter({APPLE: 5})) == 1
    assert unexplained(extra, Counter({APPLE: 1, PEAR: 1})) == 1


@pytest.mark.parametrize(
    ("stock", "oversold"),
    [
        (Stock("p", 7, 10, 3, 3), False),
        (Stock("p", 0, 10, 10, 10), False),
        (Stock("p", 6, 10, 3, 3), True),  # taken, and nobody's
        (Stock("p", 8, 10, 3, 3), True),  # sold twice
        (Stock("p", -1, 10, 11, 11), True),
        (Stock("p", 7, 10, 3, 4), True),  # the ledger took less than was ordered
        (Stock("p", None, 0, 0, 0), True),
        (Stock("p", 10, 13, 3, 3, 3, 3), False),
        (Stock("p", 10, 13, 3, 3, 3, 2), True),  # more came back than was cancelled
    ],
)
def test_oversold(stock: Stock, oversold: bool) -> None:
    assert is_oversold(stock) is oversold


def test_answers_are_sorted_into_three_heaps() -> None:
    result: LoadResult[Order] = LoadResult()
    one, two = str(UUID(int=1)), str(UUID(int=2))
    answers = [
        (202, one),
        (201, two.upper()),
        (202, one),
        (202, "?"),
        (409, "out-of-stock"),
        (429, ""),
        (503, ""),
        (503, "overloaded"),
        (0, ""),
        (200, one),
    ]
    for status, kept in answers:
        result.requests.append(Request(b"", APPLE))
        result.statuses.append(status)
        result.kept.append(kept.encode())
    sent = sort_answers(result)
    assert sent.accepted == {one: APPLE, two: APPLE}
    assert (sent.answered_twice, sent.unreadable, sent.accepted_count) == (1, 1, 4)
    assert sent.refused == {"out-of-stock": 1, "429": 1, "overloaded": 1}
    assert sent.unknown == {APPLE: 3}


def test_answers_to_cancellations_are_sorted_into_three_heaps() -> None:
    result: LoadResult[Order] = LoadResult(follow_ups=LoadResult())
    assert result.follow_ups is not None
    for id_, status, problem in (("a", 202, b""), ("b", 200, b""), ("c", 404, b"not-found"), ("d", 503, b"overloaded")):
        result.follow_ups.add(Request(b"", id_), status, problem, b"", 0.0)
    for id_, status, problem in (("e", 503, b"outcome-unknown"), ("f", 0, b"")):
        result.follow_ups.add(Request(b"", id_), status, problem, b"", 0.0)
    sent = sort_answers(result)
    assert (sent.cancelled, sent.perhaps_cancelled) == ({"a", "b"}, {"e", "f"})


def test_an_accepted_order_without_an_id_is_lost_and_an_id_answered_twice_is_duplicated() -> None:
    found = account(Sent(answered_twice=1, unreadable=1), [], [])
    assert (found.lost_count, found.duplicated) == (1, 1)
    assert not found.is_clean


@given(st.lists(st.text(max_size=3), unique=True), st.integers(1, 10))
def test_spread_has_the_last_and_no_more_than_asked(items: list[str], count: int) -> None:
    picked = spread(items, count)
    assert len(picked) <= count
    assert set(picked) <= set(items)
    assert (picked[:1] == items[-1:]) or not items
    assert bool(picked) == bool(items)
