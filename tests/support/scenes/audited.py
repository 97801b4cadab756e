"""Makes the rows of a database older, and audits it."""

from database.connection import Connection
from proof.audit_sql import Counts, audit
from proof.offenders import Offender

LAG_S = 60.0
# How far tests move rows into the past.
OLD = "interval '2 minutes'"


async def age(connection: Connection) -> None:
    """Make all rows two minutes older."""
    await connection.execute(f"UPDATE event_log SET began_at = began_at - {OLD}")
    await connection.execute(f"UPDATE orders SET persisted_at = persisted_at - {OLD}")
    await connection.execute(f"UPDATE stock_ledger SET decided_at = decided_at - {OLD}")
    await connection.execute(f"UPDATE dead_letters SET replayed_at = replayed_at - {OLD}")


async def audited(connection: Connection, lag_s: float = LAG_S) -> tuple[list[Offender], Counts]:
    """What is wrong, but not with the event log: test_verify_events.py is about that."""
    found: list[Offender] = []
    counts = await audit(connection, lag_s, found.append)
    return [it for it in found if not it.check.startswith("event_")], counts


async def offenders(connection: Connection) -> list[tuple[str, str]]:
    return [(it.check, it.id) for it in (await audited(connection))[0]]
