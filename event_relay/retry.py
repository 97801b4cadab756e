"""What follows an attempt at a webhook. A hook that nobody pauses is tried for ever.

    2xx         delivered
    410         the receiver wants no more: the hook is paused, and says why
    429, 503    again, not before Retry-After says so
    all else    again, after a time that doubles up to an hour: no answer, another status, a redirect

After a failure, everything that the hook has not delivered waits for its next attempt, so the order of events stays.
"""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# A receiver that restarts is back within seconds; one that is away for days is asked once an hour.
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 3600.0
# Retry-After is obeyed up to this: a receiver that says "next year" is asked again all the same.
MOST_RETRY_AFTER_S = 3600.0
_MOST_DOUBLINGS = 32
_GONE = 410
_OBEYING = (429, 503)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one attempt."""

    status: int | None
    """None: no answer; `error` says why."""
    took_s: float
    first_bytes: bytes = b""
    """Of the answer's body: for people, so a part will do."""
    retry_after: str | None = None
    """The header as it came."""
    error: str | None = None
    """What went wrong. With a status: only with what followed it."""

    @property
    def is_delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def problem(self) -> str:
        """For `last_error`, metrics and logs: one line, without anything of the answer's body."""
        if self.status is None:
            return self.error or "no answer"
        return f"status {self.status}" + (": redirects are not followed" if 300 <= self.status < 400 else "")


@dataclass(frozen=True, slots=True)
class Delivered:
    pass


@dataclass(frozen=True, slots=True)
class Pause:
    reason: str


@dataclass(frozen=True, slots=True)
class Again:
    after_s: float


Next = Delivered | Pause | Again


def next_step(answer: Answer, failures: int, now: datetime) -> Next:
    """`failures`: attempts in a row that failed before this one."""
    if answer.is_delivered:
        return Delivered()
    if answer.status == _GONE:
        return Pause("the receiver answered 410 Gone: it wants no more events")
    wait_s = _backoff_s(failures)
    if answer.status in _OBEYING and answer.retry_after is not None:
        asked_s = retry_after_s(answer.retry_after, now)
        if asked_s:  # Retry-After: 0 from a server that fails does not help, so our own back-off applies
            wait_s = min(asked_s, MOST_RETRY_AFTER_S) * random.uniform(1.0, 1.1)
    return Again(wait_s)


def retry_after_s(text: str, now: datetime) -> float | None:
    """The seconds that a Retry-After header asks for: a number or a date. None: it says nothing that we understand."""
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return float(min(int(text[:12]), 10**9))
    try:
        moment = parsedate_to_datetime(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, (moment - now).total_seconds())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _backoff_s(failures: int) -> float:
    """Doubled with each failure, up to the last. Half of it is jitter, so that hooks of one receiver spread."""
    doubled: float = FIRST_RETRY_S * 2 ** min(failures, _MOST_DOUBLINGS)
    return min(LAST_RETRY_S, doubled) * random.uniform(0.5, 1.0)
