"""What a PostgreSQL error means, for the batch that met it and for the connection. Decided here and nowhere else.

    DUPLICATE   the row is there already: take the path that expects it
    DATA        this row can never be stored: park it, store the others
    PASSING     not the batch's fault: hold it, and try again until it works

PASSING is the default on purpose. A held batch is late; a batch parked or dropped by mistake is lost. A worker that
crashes on it uses up the broker's delivery limit. So the workers wait, loudly, for a missing table or a full disk.

A PASSING error has a cause, which metrics count and people read. The cause also says whether the connection is still
usable. A pool that kept connections to a server turned read-only would answer 503 long after another could write.
"""

from dataclasses import dataclass
from enum import Enum

import asyncpg

from pipeline.process import error_text


class Fault(Enum):
    DUPLICATE = "duplicate"
    DATA = "data"
    PASSING = "passing"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why PostgreSQL cannot do the work."""

    name: str
    """The metrics' label: one of a few."""
    words: str = ""
    """For a person, where PostgreSQL's own message does not say it."""
    spoils: bool = False
    """Whether to drop the connection, even if it is open: a new one may do better."""


_UNIQUE_VIOLATION = "23505"
# SQLSTATE classes (appendix A of PostgreSQL's manual) that blame the row: data exception and integrity constraint
# violation.
_DATA_CLASSES = ("22", "23")

READ_ONLY = Cause("read_only", "this server cannot write: it is a standby, or was made read-only", spoils=True)
_SILENT = Cause("no_answer", "PostgreSQL did not answer in time: it is frozen, overloaded, or cut off")
_UNREACHABLE = Cause("unreachable", "", spoils=True)
_BROKEN = Cause(
    "broken_session", "the session broke off in the middle of a command, because PostgreSQL did not answer", spoils=True
)
_OUT_OF_STEP = Cause(
    "pooler", "another server answers than the one that prepared the statement: a pooler?", spoils=True
)
_OTHER = Cause("other")

# By SQLSTATE, else by its class.
_CAUSES = {
    "25006": READ_ONLY,
    "25P03": Cause("session_ended", "the session was idle in a transaction for too long", spoils=True),
    "25P04": Cause("session_ended", "the transaction took too long (transaction_timeout)", spoils=True),
    "26000": _OUT_OF_STEP,
    "42P05": _OUT_OF_STEP,
    "28000": Cause("login_refused", "the server refuses the login: the role, or pg_hba.conf", spoils=True),
    "28P01": Cause("login_refused", "the server refuses the password of DATABASE_URL", spoils=True),
    "3D000": Cause("no_database", "the database of DATABASE_URL is not there", spoils=True),
    "40001": Cause("conflict", "the server broke off a conflict; on a standby, one with recovery", spoils=True),
    "40P01": Cause("deadlock"),
    "42501": Cause("no_right", "the role lacks a right: GRANT it"),
    "42P01": Cause("no_table", "the migrations have not run, or search_path does not lead to the tables"),
    "42703": Cause("no_column", "the migrations have not run to their end"),
    "53100": Cause("disk_full", "the disk of PostgreSQL is full"),
    "53300": Cause("too_many_connections", "PostgreSQL has no connection left", spoils=True),
    "55000": Cause("not_in_state", "", spoils=True),
    "55P03": Cause("locked", "somebody holds the lock for longer than we wait: pg_locks says who"),
    "57014": Cause("canceled"),
    "57P01": Cause("shutting_down", "the server is shutting down, or somebody ended the session", spoils=True),
    "57P02": Cause("shutting_down", "another process of the server crashed", spoils=True),
    "57P03": Cause("starting", "the server is starting, stopping or recovering", spoils=True),
    "57P04": Cause("no_database", "somebody dropped the database", spoils=True),
    "57P05": Cause("session_ended", "the session was idle for too long", spoils=True),
    "08": _UNREACHABLE,
    "28": Cause("login_refused", "the server refuses the login", spoils=True),
    "53": Cause("no_resources", "PostgreSQL is out of memory, disk or connections"),
    "57": Cause("shutting_down", "", spoils=True),
    "58": Cause("server_error", "the server met an error of its system", spoils=True),
    "F0": Cause("server_error", "the server's configuration is damaged", spoils=True),
    "XX": Cause("server_error", "a fault inside the server: its log says more", spoils=True),
}


def fault_of(error: BaseException) -> Fault | None:
    """Classify `error`. None: it does not come from the database, so it is a bug of ours."""
    if isinstance(error, asyncpg.PostgresError):
        # Includes values that asyncpg rejects before sending: its DataError has the SQLSTATE 22000.
        sqlstate = error.sqlstate or ""
        if sqlstate == _UNIQUE_VIOLATION:
            return Fault.DUPLICATE
        return Fault.DATA if sqlstate[:2] in _DATA_CLASSES else Fault.PASSING
    if isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError)):
        return Fault.PASSING
    return None


def cause_of(error: BaseException) -> Cause:
    """Why a PASSING error happened."""
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = error.sqlstate or ""
        return _CAUSES.get(sqlstate) or _CAUSES.get(sqlstate[:2]) or _OTHER
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return READ_ONLY
    if isinstance(error, TimeoutError):
        return _SILENT
    return _UNREACHABLE if isinstance(error, (OSError, EOFError)) else _BROKEN


def describe(error: BaseException) -> str:
    """The error in one line: SQLSTATE or type, message, meaning. Omits PostgreSQL's DETAIL, which quotes whole rows."""
    words = cause_of(error).words if fault_of(error) is Fault.PASSING else ""
    if isinstance(error, asyncpg.InternalClientError) and words:
        return f"{type(error).__name__}: {words}"  # its own text is about asyncpg's internals
    sqlstate = getattr(error, "sqlstate", None)
    # asyncpg's str() appends DETAIL and HINT.
    said = f"{sqlstate} {error_text.one_line(error.args[0])}" if sqlstate and error.args else error_text.describe(error)
    return f"{said} ({words})" if words else said
