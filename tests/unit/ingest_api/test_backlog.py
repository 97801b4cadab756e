"""What waits is counted message by message, and never more than a bounded number of them is remembered."""

from ingest_api.reads.backlog import Backlog, Waiting
from pipeline.contract.orders import encode_order
from tests.support.data.orders import new_product_id, order

A = new_product_id()
ACCEPTED, CREATED = "orders.accepted", "orders.created"


def message(backlog: Backlog, orders: int, now: float = 0.0) -> str:
    """The id of the order that stands for a message of so many."""
    last = order(A)
    backlog.confirmed([b"", *[b"{}"] * (orders - 2), encode_order(last)][-orders:], now)
    return last.id


def test_an_order_waits_for_its_row_then_for_its_verdict_then_no_more() -> None:
    backlog = Backlog()
    first, second = message(backlog, 3, 10.0), message(backlog, 40, 12.0)
    assert backlog.waiting(20.0) == {ACCEPTED: Waiting(43, 2, 10.0), CREATED: Waiting()}
    assert backlog.to_ask() == [first, second]
    backlog.heard({first: False})
    assert backlog.waiting(20.0) == {ACCEPTED: Waiting(40, 1, 8.0), CREATED: Waiting(3, 1, 10.0)}
    backlog.heard({first: True})
    assert backlog.waiting(20.0) == {ACCEPTED: Waiting(40, 1, 8.0), CREATED: Waiting()}
    backlog.heard({second: True})
    assert backlog.waiting(20.0) == {ACCEPTED: Waiting(), CREATED: Waiting()}
    assert backlog.is_empty
    assert backlog.to_ask() == []


def test_what_one_of_several_workers_holds_is_counted_while_the_others_go_on() -> None:
    backlog = Backlog()
    held, *others = (message(backlog, 5) for _ in range(10))
    assert backlog.to_ask() == [held, *others]
    backlog.heard(dict.fromkeys(others, True))
    assert backlog.waiting(1.0)[ACCEPTED] == Waiting(5, 1, 1.0)
    assert backlog.to_ask() == [held]


def test_a_long_backlog_is_counted_whole_and_remembered_in_little() -> None:
    backlog = Backlog()
    ids = [message(backlog, 2) for _ in range(10_000)]
    assert backlog.waiting(1.0)[ACCEPTED] == Waiting(20_000, 10_000, 1.0)
    assert len(backlog._messages) <= 2_048
    while asked := backlog.to_ask():
        assert len(asked) <= 512
        assert set(asked) <= set(ids)
        backlog.heard(dict.fromkeys(asked, True))
    assert backlog.is_empty
