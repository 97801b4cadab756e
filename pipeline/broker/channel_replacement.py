"""When to publish on another channel, and when to close the one that it replaces. Pure.

A channel of the broker remembers that a queue refuses. The queue's leader tells it once when that ends, and may be gone
by then. A channel that RabbitMQ 3.10 opened while there was no leader asks a missing node for ever. It refused
everything, with empty queues, until the service was restarted. A new channel asks anew.

    one channel    numbered 1 or 2
        │  it has refused for long enough: OPEN_ANOTHER
        ▼
    two channels   new messages use the other number; the former channel still waits for confirms
        │  it waits for none: CLOSE_FORMER
        ▼
    one channel

Only two numbers are used: the client's own count would run past the last number that the broker allows.

The queue may really be full, so each next channel is opened later. Each costs the broker a log entry, and the client
4 kB for the life of the connection (aiormq 7.2 never removes what waits for `closing`).
"""

from dataclasses import dataclass
from enum import Enum, auto

FIRST_NUMBER, SECOND_NUMBER = 1, 2
FIRST_REFUSED_S, LAST_REFUSED_S = 1.0, 60.0


class Step(Enum):
    """What to do next."""

    NOTHING = auto()
    OPEN_ANOTHER = auto()
    CLOSE_FORMER = auto()


@dataclass(eq=False, slots=True)
class ChannelState:
    """What is known of one channel. All times are loop times."""

    number: int
    opened_at: float
    """When it was requested."""
    waiting: int = 0
    """Messages that wait for their confirm."""
    refused_since: float | None = None
    """When a message was first refused since one was confirmed."""
    replaced: int = 0
    """Channels replaced in a row before it, without a confirm in between."""

    def refused(self, now: float) -> None:
        self.refused_since = self.refused_since or now

    def confirmed(self) -> None:
        self.refused_since, self.replaced = None, 0

    def is_stuck(self, now: float, *, is_suspect: bool) -> bool:
        """Whether it has refused for so long that another channel should be tried."""
        if self.refused_since is None:
            return False
        backoff_s = FIRST_REFUSED_S if is_suspect else FIRST_REFUSED_S * 2 ** min(self.replaced, 16)
        return now >= self.refused_since + min(LAST_REFUSED_S, backoff_s)


class ChannelReplacement:
    """The channel in use on one connection, and the former one until it is closed."""

    def __init__(self, opened_at: float) -> None:
        self.current = ChannelState(FIRST_NUMBER, opened_at)
        self.former: ChannelState | None = None

    def next_step(self, now: float, *, is_suspect: bool = False) -> Step:
        """`is_suspect`: the channel or the broker is at fault, and only another channel shows which."""
        if self.former is not None:
            return Step.NOTHING if self.former.waiting else Step.CLOSE_FORMER
        return Step.OPEN_ANOTHER if self.current.is_stuck(now, is_suspect=is_suspect) else Step.NOTHING

    def another(self, opened_at: float) -> ChannelState:
        """The channel to open next."""
        number = FIRST_NUMBER + SECOND_NUMBER - self.current.number
        return ChannelState(number, opened_at, replaced=self.current.replaced + 1)

    def opened(self, another: ChannelState) -> None:
        """`another` is open, and takes all new messages."""
        self.current, self.former = another, self.current

    def closed_former(self) -> None:
        self.former = None
