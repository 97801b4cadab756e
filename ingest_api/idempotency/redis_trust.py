"""What one process has learned of Redis's memory, call by call: how far a key's absence can be believed. Pure.

ingest_api.idempotency.claims says what makes Redis forget, and ingest_api.idempotency.trust_judge how the level rises.
"""

from dataclasses import dataclass
from typing import NamedTuple

# An order is stored within this time of its claim; after that, the claim may be dropped. A worker gives a batch back
# after 600 s.
SETTLES_WITHIN_S = 900.0
# When a memory is found settled, every claim made this long before is stored. A request publishes within 10 s, and a
# frozen worker's messages reach another worker within 60 s.
OVERTAKES_S = 60.0
# This long after that finding, every request that began before it has its answer from the store.
LEARNED_FOR_S = 5.0

UNSETTLED, SETTLED, COMPLETE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class KeyMemory:
    """How far a key's absence from Redis can be believed."""

    began_ms: int
    """Redis time at which its memory began, or at which the newest claim was made that it dropped for this client."""
    level: int
    """UNSETTLED: an order from before that time may still be on its way to the store. SETTLED: each such order is
    stored or parked. COMPLETE: there was none.
    """
    now_ms: int

    def age_s(self) -> float:
        return (self.now_ms - self.began_ms) / 1_000


NO_KEY_MEMORY = KeyMemory(0, UNSETTLED, 0)
"""Redis is away."""


class Changes(NamedTuple):
    """What a call to Redis shows beside the claims."""

    evicted: int
    """Keys that Redis has evicted since the call before."""
    is_loss: bool
    """Whether Redis's memory has begun anew."""
    is_gap: bool
    """Whether nearly everything may be forgotten, and not only what was evicted."""


class RedisTrust:
    """The memory as of the latest call, and until when all claims are known to be stored."""

    def __init__(self) -> None:
        self.current = NO_KEY_MEMORY
        self.seen_at = 0.0
        """Loop time at which this process first heard of the current memory."""
        self.raised: tuple[int, int] = (0, 0)
        """For the script: the beginning of the memory that this process last raised, and to which level."""
        self._run_and_evictions: tuple[bytes, bytes] = (b"", b"")
        self._gap_ms = 0
        self._stored_until_ms = 0
        self._learned: tuple[int, int] | None = None  # Redis time of the finding; until when all is stored

    def learn(
        self, run: bytes, evicted: bytes, began: bytes, level: int, now: bytes, gap: bytes, *, loop_time: float
    ) -> Changes:
        """Take in the head of the script's answer."""
        memory, former = KeyMemory(int(began), level, int(now)), self.current
        began_anew = memory.began_ms != former.began_ms
        changes = Changes(
            self._evicted(run, evicted),
            is_loss=began_anew and former is not NO_KEY_MEMORY,
            is_gap=bool(self._gap_ms) and int(gap) != self._gap_ms,
        )
        if began_anew:
            self.seen_at = loop_time
        self._run_and_evictions, self.current, self._gap_ms = (run, evicted), memory, int(gap)
        if self._learned is not None and memory.now_ms - self._learned[0] > 1_000 * LEARNED_FOR_S:
            self._stored_until_ms, self._learned = max(self._stored_until_ms, self._learned[1]), None
        return changes

    def raise_to(self, memory: KeyMemory, level: int) -> None:
        """Raise `memory` to `level` for all processes. About a client's dropped claims, only this process learns."""
        overtaken_ms = memory.now_ms - round(1_000 * OVERTAKES_S)
        if level > UNSETTLED and self._learned is None and memory.began_ms <= overtaken_ms:
            self._learned = self.current.now_ms, overtaken_ms
        if self.current.began_ms == memory.began_ms and self.current.level < level:
            self.raised = memory.began_ms, level
            self.current = KeyMemory(memory.began_ms, level, memory.now_ms)

    def found(self, held: bytes | None) -> tuple[bytes, KeyMemory]:
        """The value at a key, and how far its absence can be believed.

        `held`: that value, or when the newest claim was made that Redis dropped for this client, in ms.
        """
        if held is None:
            return b"", self.current
        if len(held) > 20 or not held.isdigit():
            return held, self.current
        dropped_ms, now_ms = int(held), self.current.now_ms
        if dropped_ms < self.current.began_ms:
            return b"", self.current
        is_stored = dropped_ms <= self._stored_until_ms or now_ms - dropped_ms > 1_000 * SETTLES_WITHIN_S
        is_settled = self.current.level > UNSETTLED and is_stored
        return b"", KeyMemory(dropped_ms, SETTLED if is_settled else UNSETTLED, now_ms)

    def _evicted(self, run: bytes, evicted: bytes) -> int:
        former_run, former = self._run_and_evictions
        if run != former_run or not evicted.isdigit() or not former.isdigit():
            return 0
        return max(0, int(evicted) - int(former))
