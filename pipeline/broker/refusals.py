"""What it means that the broker refuses messages: a queue is full, or the broker is at fault. Pure.

RabbitMQ 3.10 whose disk was full lives on with all its quorum queues down. It refuses every message, as if the queues
were full, and says that they are empty. Only a restart mends it, so what looks like overload would have no end.

A channel alone may refuse as well, in a cluster, when it was opened while the queue had no leader. Another mends
that, so nobody is told to restart a broker before a channel that was opened since has been refused too.
"""


class Refusals:
    """Of one queue. Told what was refused, and how many messages the queue holds, it says which of the two it is."""

    def __init__(self) -> None:
        self.since: float | None = None
        """When a message was refused for the first time since one was confirmed."""
        self.last = 0.0
        """When one was refused for the last time."""
        self.is_broken = False
        """Whether a message was refused although the queue has room, by the broker or by a channel alone."""
        self.is_fault = False
        """Whether it is the broker that refuses, and not a channel alone."""
        self.is_full = False
        """Whether the queue held something when it was looked at last."""
        self._empty_since: float | None = None

    @property
    def is_unexplained(self) -> bool:
        """Whether the queue has to be looked at: it refuses, and nobody has looked since."""
        return self.since is not None and self._empty_since is None and not self.is_full

    def wants_another(self, opened_at: float) -> bool:
        """Whether a channel of `opened_at` says nothing of the broker, so that another has to be asked."""
        return self.is_broken and self._empty_since is not None and opened_at < self._empty_since

    def refused(self, sent_at: float, now: float, opened_at: float) -> bool:
        """Whether it was refused although the queue has room: it was sent when the queue was known to be empty.

        `opened_at`: when its channel was asked for.
        """
        self.since, self.last = self.since or now, now
        if self._empty_since is not None and sent_at >= self._empty_since:
            self.is_broken = True
            self.is_fault = self.is_fault or opened_at >= self._empty_since
        return self.is_broken

    def confirmed(self) -> None:
        self.since, self._empty_since, self.is_full = None, None, False
        self.is_broken = self.is_fault = False

    def looked(self, ready: int, now: float) -> None:
        """`ready`: messages in the queue, at a moment between the question and `now`."""
        self.is_full = ready > 0
        if ready:
            self._empty_since = None
            self.is_broken = self.is_fault = False
        elif self._empty_since is None:
            self._empty_since = now
