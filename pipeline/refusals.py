"""What it means that the broker refuses messages: a queue is full, or the broker is at fault. Pure.

RabbitMQ 3.10 whose disk was full lives on with all its quorum queues down. It refuses every message, as if the queues
were full, and says that they are empty. Only a restart mends it, so what looks like overload would have no end.
"""


class Refusals:
    """Of one queue. Told what was refused, and how many messages the queue holds, it says which of the two it is."""

    def __init__(self) -> None:
        self.since: float | None = None
        """When a message was refused for the first time since one was confirmed."""
        self.last = 0.0
        """When one was refused for the last time."""
        self.is_fault = False
        """Whether the broker refuses although the queue has room."""
        self.is_full = False
        """Whether the queue held something when it was looked at last."""
        self._empty_since: float | None = None

    @property
    def is_unexplained(self) -> bool:
        """Whether the queue has to be looked at: it refuses, and nobody has looked since."""
        return self.since is not None and self._empty_since is None and not self.is_full

    def refused(self, sent_at: float, now: float) -> bool:
        """Whether this refusal is the broker's fault: the message was sent when the queue was known to be empty."""
        self.since, self.last = self.since or now, now
        if self._empty_since is not None and sent_at >= self._empty_since:
            self.is_fault = True
        return self.is_fault

    def confirmed(self) -> None:
        self.since, self.is_fault, self._empty_since, self.is_full = None, False, None, False

    def looked(self, ready: int, now: float) -> None:
        """`ready`: messages in the queue, at a moment between the question and `now`."""
        self.is_full = ready > 0
        if ready:
            self._empty_since, self.is_fault = None, False
        elif self._empty_since is None:
            self._empty_since = now
