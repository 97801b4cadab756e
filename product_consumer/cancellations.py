"""Who may cancel what, and what becomes of each cancellation. Verdicts and cancel.py settle by the same rules.

Both hold the locks of the order's products while they look and write, so of two that meet, the second sees what the
first has done. Only an order of an unknown product has no lock. There the primary key of the ledger decides.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from database.connection import Connection
from pipeline.contract.cancellations import CancelOutcome

# The oldest first: of several that may, it is the one that cancels.
OLDEST_FIRST = "requested_at, client, sees_all"
_SETTLE = """
    UPDATE cancellations c SET outcome = s.outcome, settled_at = clock_timestamp(),
        accepted_at = (SELECT accepted_at FROM orders WHERE id = c.order_id AND line = 0)
    FROM unnest($1::uuid[], $2::text[], $3::boolean[], $4::text[]) AS s (order_id, client, sees_all, outcome)
    WHERE (c.order_id, c.client, c.sees_all) = (s.order_id, s.client, s.sees_all) AND c.outcome IS NULL
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A cancellation that waits to be settled. The members are the key of its row."""

    order_id: str
    client: str
    sees_all: bool

    def may_cancel(self, owner: str | None) -> bool:
        """Whether its client may cancel an order of `owner`: by the same rule as it may read it."""
        return self.sees_all or owner == self.client


@dataclass(frozen=True, slots=True)
class Settled:
    cancellation: Waiting
    outcome: CancelOutcome


def settle_each(
    waiting: Iterable[Waiting], owners: Mapping[str, str | None], effects: Mapping[str, CancelOutcome]
) -> list[Settled]:
    """Give each cancellation its outcome. `waiting`: the oldest first.

    `owners`: of the stored orders, by id; None: nobody's. `effects`: what cancelling does to an order, by id. One
    cancellation has the effect; those behind it come too late.
    """
    settled: list[Settled] = []
    left = dict(effects)
    for it in waiting:
        if it.order_id in owners and not it.may_cancel(owners[it.order_id]):
            settled.append(Settled(it, CancelOutcome.NOT_YOURS))
        else:
            settled.append(Settled(it, left.pop(it.order_id, CancelOutcome.TOO_LATE)))
    return settled


def orders_with(outcome: CancelOutcome, settled: Iterable[Settled]) -> set[str]:
    """The orders that a cancellation with this outcome names."""
    return {it.cancellation.order_id for it in settled if it.outcome is outcome}


# ── I/O below


async def write_settled(connection: Connection, settled: Sequence[Settled]) -> None:
    """Write the outcomes, in the caller's transaction."""
    if settled:
        rows = (
            (it.cancellation.order_id, it.cancellation.client, it.cancellation.sees_all, it.outcome) for it in settled
        )
        await connection.execute(_SETTLE, *map(list, zip(*rows, strict=True)))
