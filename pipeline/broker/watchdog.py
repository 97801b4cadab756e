"""Notices a stalled consumer: messages are ready, but none is delivered. Pure: looks at the broker in, verdict out.

The broker must deliver ready messages at once to a consumer with room. So "messages ready, nothing in hand, nothing
delivered", look after look, is a fault. The broker forgot a consumer, say, or an ack or a cancellation got lost.
Nothing reports those faults, and only a new session cures them.
"""

from enum import Enum

# Suspicious looks in a row, some 5 s apart. One may be chance: its messages were delivered a moment later.
_TELL_AFTER = 3
_END_AFTER = 6


class Seen(Enum):
    FINE = "fine"
    STALLED = "stalled"
    """Long enough to report."""
    DEAD = "dead"
    """So long that only a new session is left to try."""


class Watchdog:
    """Watches one session. Call `look` after each look at the broker."""

    def __init__(self, delivered: int = 0) -> None:
        """`delivered`: messages delivered before the session began."""
        self._delivered, self._suspicions = delivered, 0

    def look(self, *, ready: int, consumers: int, delivered: int, is_busy: bool) -> Seen:
        """Judge one look: messages `ready` in the queue, and its `consumers`, ours included.

        `delivered`: messages delivered up to now. `is_busy`: some are unacknowledged, so the next step may be ours.
        """
        is_idle = delivered == self._delivered and not is_busy
        self._delivered = delivered
        self._suspicions = self._suspicions + 1 if is_idle and (ready or not consumers) else 0
        if self._suspicions >= _END_AFTER:
            return Seen.DEAD
        return Seen.STALLED if self._suspicions >= _TELL_AFTER else Seen.FINE
