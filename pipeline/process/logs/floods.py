"""Limits the rate of each kind of log line: the first few pass, then one in a while, with how many were left out.

Pure: callers pass the time. A server that is away causes the same line for each request that needs it. Four writes a
second to a read-only PostgreSQL were 1,000 lines a minute, which buried the one line that named the cause.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

# Lines of a kind that pass at once: enough to see what differs between them.
BURST = 10
# Then one passes in this time, so a flood costs 6 lines a minute, for as long as it lasts.
EVERY_S = 10.0
# Kinds that are remembered. Our code has about a hundred. A library whose messages differ each time evicts those seen
# least recently, not one that comes all the time.
_KINDS = 500


@dataclass(slots=True)
class _Kind:
    allowance: float
    seen_at: float
    """When a line of this kind last came, written or not."""
    left_out: int = 0


class Floods:
    """Decides for each line whether it is written."""

    def __init__(self, burst: int = BURST, every_s: float = EVERY_S) -> None:
        self._burst, self._every_s = burst, every_s
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()

    def admit(self, kind: Hashable, now: float) -> int | None:
        """None: leave this line out. Otherwise write it; the number is how many of its kind were left out before it.

        `now`: seconds of a monotonic clock.
        """
        known = self._kinds.get(kind)
        if known is None:
            known = self._remember(kind, now)
        else:
            with contextlib.suppress(KeyError):  # another thread that logs may have evicted it
                self._kinds.move_to_end(kind)
        known.allowance = min(self._burst, known.allowance + max(0.0, now - known.seen_at) / self._every_s)
        known.seen_at = now
        if known.allowance < 1:
            known.left_out += 1
            return None
        known.allowance -= 1
        left_out, known.left_out = known.left_out, 0
        return left_out

    def ended(self, now: float) -> list[tuple[Hashable, int]]:
        """The kinds whose flood is over, each with the lines left out since the last one written. Returns each once.

        Without this, nothing would report them if no later line of the kind came.
        """
        # An atomic copy: other threads log meanwhile.
        silent = [it for it in list(self._kinds.items()) if it[1].left_out and now - it[1].seen_at >= self._every_s]
        told = [(kind, known.left_out) for kind, known in silent]
        for _, known in silent:
            known.left_out = 0
        return told

    def _remember(self, kind: Hashable, now: float) -> _Kind:
        while len(self._kinds) >= _KINDS:
            self._kinds.popitem(last=False)
        known = self._kinds[kind] = _Kind(self._burst, now)
        return known
