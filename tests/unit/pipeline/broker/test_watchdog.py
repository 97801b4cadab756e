"""What a look at the queue means, and the looks before it."""

import pytest

from pipeline.broker.watchdog import Seen, Watchdog

FINE, STALLED, DEAD = Seen.FINE, Seen.STALLED, Seen.DEAD


def looks(watchdog: Watchdog, count: int, **changes: int) -> list[Seen]:
    """The same look again and again: messages are ready, and none has come."""
    seen = {"ready": 5, "consumers": 1, "delivered": 0, "is_busy": False, **changes}
    return [watchdog.look(**seen) for _ in range(count)]  # type: ignore[arg-type]


def test_messages_that_are_ready_and_never_come_are_told_of_and_then_end_the_session() -> None:
    assert looks(Watchdog(), 7) == [FINE, FINE, STALLED, STALLED, STALLED, DEAD, DEAD]


def test_a_consumer_that_is_not_there_is_as_bad_although_nothing_is_ready_yet() -> None:
    assert looks(Watchdog(), 6, ready=0, consumers=0) == [FINE, FINE, STALLED, STALLED, STALLED, DEAD]


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param({"ready": 0}, id="nothing to get"),
        pytest.param({"is_busy": True}, id="the next move is ours"),
        pytest.param({"is_busy": True, "consumers": 0}, id="cancelled with a batch in hand"),
    ],
)
def test_nothing_is_wrong_with(seen: dict[str, int]) -> None:
    assert set(looks(Watchdog(), 20, **seen)) == {FINE}


def test_one_delivery_clears_all_suspicion() -> None:
    watchdog = Watchdog()
    assert looks(watchdog, 5)[-1] is STALLED
    assert looks(watchdog, 3, delivered=1) == [FINE, FINE, FINE]
    assert looks(watchdog, 1, delivered=1) == [STALLED]


def test_what_came_in_an_earlier_session_is_no_delivery_of_this_one() -> None:
    assert looks(Watchdog(delivered=7), 3, delivered=7) == [FINE, FINE, STALLED]
