"""What one process keeps of its claims: those that Redis has not been told yet, and the latest, to restore them. Pure.

Bounded by number and bytes, whatever Redis does. ingest_api.idempotency.claims says when claims are restored.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import NamedTuple

# The most that one call settles. It blocks Redis for 5 ms.
SETTLE_AT_ONCE, SETTLE_BYTES_AT_ONCE = 1_000, 512 * 1024
# Of the claims that wait to be settled. Past it, a claim joins those that are restored.
MAX_SETTLING_BYTES = 8 * 2**20
# Claims that this process remembers: 20,000 orders of 0.8 kB each, or 500 bulk requests of 1,000 orders and 31 kB.
MAX_HELD, MAX_HELD_BYTES = 20_000, 16 * 2**20
# Of one claim, besides its prices (measured).
_BYTES_EACH = 700


class Settled(NamedTuple):
    """The new state of a claim; its fields are in the order that the script expects."""

    name: str
    order_id: str
    owner: str
    state: str
    """"": the key is free."""
    made: str
    priced: str
    claims: str
    """Redis name of the list of the client's claims."""

    @property
    def size(self) -> int:
        return _BYTES_EACH + len(self.priced)

    def value(self) -> bytes:
        """The value as the script would return it."""
        return "".join((self.order_id, self.state, self.owner, "0" * 13, self.made, self.priced)).encode()


class HeldClaims:
    """The claims that this process remembers, and those of them that the next calls to Redis settle or restore."""

    def __init__(self, max_waiting: int) -> None:
        """`max_waiting`: the most claims that wait to be settled."""
        self._max_waiting = max_waiting
        self._held: OrderedDict[str, Settled] = OrderedDict()
        self.held_bytes = 0
        self._to_settle: deque[Settled] = deque()
        self.settling_bytes = 0
        self._to_restore: dict[str, None] = {}  # names in `_held`; the last is restored first

    def __len__(self) -> int:
        return len(self._held)

    @property
    def settling(self) -> int:
        """How many claims wait to be settled."""
        return len(self._to_settle)

    @property
    def restoring(self) -> int:
        """How many claims wait to be restored."""
        return len(self._to_restore)

    def get(self, name: str) -> Settled | None:
        return self._held.get(name)

    def hold(self, settled: Settled) -> None:
        """Remember the claim, and forget the oldest ones that it leaves no room for."""
        if (former := self._held.pop(settled.name, None)) is not None:
            self.held_bytes -= former.size
        self._held[settled.name] = settled
        self.held_bytes += settled.size
        while len(self._held) > MAX_HELD or self.held_bytes > MAX_HELD_BYTES:
            self.forget(next(iter(self._held)))

    def forget(self, name: str) -> None:
        if (held := self._held.pop(name, None)) is not None:
            self.held_bytes -= held.size
            self._to_restore.pop(name, None)

    def settle(self, settled: Settled, *, is_away: bool) -> bool:
        """Have the next call settle the claim. Returns whether it will; if not, a claim that is held is restored later.

        `is_away`: nothing queues for a Redis that is away, so never more waits than arrives during one call.
        """
        has_room = len(self._to_settle) < self._max_waiting and self.settling_bytes < MAX_SETTLING_BYTES
        if has_room and not is_away:
            self._to_settle.append(settled)
            self.settling_bytes += settled.size
            return True
        if settled.name in self._held:
            self._to_restore[settled.name] = None
        return False

    def take(self) -> list[Settled]:
        """Take what one call settles: new answers first, then restored claims, the latest first."""
        chosen: list[Settled] = []
        left = SETTLE_BYTES_AT_ONCE
        while left > 0 and len(chosen) < SETTLE_AT_ONCE and (self._to_settle or self._to_restore):
            if self._to_settle:
                settled = self._to_settle.popleft()
                self.settling_bytes -= settled.size
            else:
                settled = self._held[self._to_restore.popitem()[0]]
            chosen.append(settled)
            left -= settled.size
        return chosen

    def call_failed(self, taken: list[Settled]) -> None:
        """Restore later what Redis did not take, and what waited behind it."""
        self._restore_later((*reversed(taken), *self._to_settle))
        self._to_settle.clear()
        self.settling_bytes = 0

    def restore_all(self) -> None:
        """Redis has forgotten: give it every claim again."""
        self._to_restore = dict.fromkeys(self._held)

    def _restore_later(self, settling: Iterable[Settled]) -> None:
        # A key that was to be freed is not held. It is free anyway once its request counts as dead.
        for it in settling:
            if self._held.get(it.name) is it:
                self._to_restore[it.name] = None
