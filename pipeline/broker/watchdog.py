"""Notices a consumer that gets nothing although there is something to get. Pure: it is told what a look at the broker
showed, and says what that means.

A broker owes a consumer with room whatever is ready, at once. So "messages ready, nothing in hand, nothing delivered",
look after look, is a fault, whichever: a consumer that the broker forgot, an ack or a cancellation that got lost on its
way. Nobody reports those, and only a new session mends them.
"""

from enum import Enum

# Looks in a row, some 5 s apart. One may be a coincidence: what it counted was delivered a moment later.
_TELL_AFTER = 3
_END_AFTER = 6


class Seen(Enum):
    FINE = "fine"
    STALLED = "stalled"
    """For long enough to say so."""
    DEAD = "dead"
    """For so long that nothing but a new session is left to try."""


class Watchdog:
    """For one session. It is asked after each look."""

    def __init__(self, delivered: int = 0) -> None:
        """`delivered`: how many messages had come when the session began."""
        self._delivered, self._suspicions = delivered, 0

    def look(self, *, ready: int, consumers: int, delivered: int, is_busy: bool) -> Seen:
        """What it means that so many messages are `ready` and so many `consumers` are there, ours among them.

        `delivered`: how many messages have come up to now. `is_busy`: some of them are still to be acknowledged, so it
        may be for us to go on.
        """
        is_idle = delivered == self._delivered and not is_busy
        self._delivered = delivered
        self._suspicions = self._suspicions + 1 if is_idle and (ready or not consumers) else 0
        if self._suspicions >= _END_AFTER:
            return Seen.DEAD
        return Seen.STALLED if self._suspicions >= _TELL_AFTER else Seen.FINE
