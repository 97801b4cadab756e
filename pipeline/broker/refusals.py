"""Tells why the broker refuses messages: a queue is full, the broker is at fault, or only one channel is. Pure.

After its disk was full, RabbitMQ 3.10 runs on with all its quorum queues down. It refuses every message, as if the
queues were full, but reports them as empty. Only a restart cures it, so what looks like overload would never end.

In a cluster, a single channel may refuse too, if it was opened while the queue had no leader. A new channel cures that.
So operators are told to restart the broker only after a channel opened since has been refused as well.
"""


class Refusals:
    """Tracks the refusals of one queue and its depth, and concludes why it refuses."""

    def __init__(self) -> None:
        self.since: float | None = None
        """When a message was first refused since one was confirmed."""
        self.last = 0.0
        """When a message was last refused."""
        self.is_broken = False
        """Whether a message was refused although the queue has room, by the broker or by one channel."""
        self.is_fault = False
        """Whether the broker refuses, and not only one channel."""
        self.is_full = False
        """Whether the queue held messages at the last look."""
        self._empty_since: float | None = None

    @property
    def is_unexplained(self) -> bool:
        """Whether the queue's depth must be asked for: it refuses, and nobody has asked since."""
        return self.since is not None and self._empty_since is None and not self.is_full

    def wants_another(self, opened_at: float) -> bool:
        """Whether a channel opened at `opened_at` proves nothing about the broker, so a new one must be tried."""
        return self.is_broken and self._empty_since is not None and opened_at < self._empty_since

    def refused(self, sent_at: float, now: float, opened_at: float) -> bool:
        """Record a refused message. Returns whether a message was refused although the queue has room.

        It has room for a message sent while it was known to be empty. `opened_at`: when the channel was requested.
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
        """Record the queue's depth. `ready`: its messages at a moment between the question and `now`."""
        self.is_full = ready > 0
        if ready:
            self._empty_since = None
            self.is_broken = self.is_fault = False
        elif self._empty_since is None:
            self._empty_since = now
