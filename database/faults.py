"""What an error of PostgreSQL means for the batch that met it. Decided here and nowhere else.

    DUPLICATE   the row is there already: take the way that expects it
    DATA        this row can never be stored: park it, store the others
    PASSING     not the batch's fault: hold it, and try again until it works

PASSING is the default on purpose. A batch that is held is late; one that is parked or dropped by mistake is lost, and a
worker that crashes on it uses up the broker's delivery limit. So a missing table or a full disk is waited for, loudly.
"""

from enum import Enum

import asyncpg


class Fault(Enum):
    DUPLICATE = "duplicate"
    DATA = "data"
    PASSING = "passing"


_UNIQUE_VIOLATION = "23505"
# Classes of SQLSTATE (appendix A of PostgreSQL's manual) that blame the row: data exception, integrity constraint
# violation.
_DATA_CLASSES = ("22", "23")


def fault_of(error: Exception) -> Fault | None:
    """What `error` means, or None if it is not the database's at all but a bug of ours."""
    if isinstance(error, asyncpg.PostgresError):
        # Also what asyncpg refuses itself, before it is sent: its DataError has the SQLSTATE 22000.
        sqlstate = error.sqlstate or ""
        if sqlstate == _UNIQUE_VIOLATION:
            return Fault.DUPLICATE
        return Fault.DATA if sqlstate[:2] in _DATA_CLASSES else Fault.PASSING
    if isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError)):
        return Fault.PASSING
    return None


def describe(error: Exception) -> str:
    """SQLSTATE and message in one line; without PostgreSQL's DETAIL, which quotes whole rows."""
    sqlstate = getattr(error, "sqlstate", None)
    # asyncpg's str() appends DETAIL and HINT.
    return f"{sqlstate} {error.args[0]}" if sqlstate and error.args else f"{type(error).__name__}: {error}"
