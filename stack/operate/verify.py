"""`./headrace verify`: the conservation audit of a system that runs, or of any database that is Headrace's."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import uvloop

from proof.accounting_sql import Connection, drain
from proof.audit_sql import SESSION, audit
from stack.errors import HeadraceError
from stack.home.directory import Home
from stack.home.key_file import own_token
from stack.operate.demo import INTERRUPTED
from stack.operate.repair import resend
from stack.operate.target import choose_target
from stack.operate.verify_report import Report
from stack.run.backlog import waiting_at
from stack.terminal import err

CONNECT_TIMEOUT_S = 10.0
# After the sending, without a single verdict. Longer than a product_consumer that was killed takes to be back.
DECIDING_PATIENCE_S = 30.0
FIX = "./headrace status, or look at the database that you named; then again: ./headrace verify"


def verify(
    home: Home,
    *,
    lag_s: float,
    database_url: str | None = None,
    amqp_url: str | None = None,
    repair: bool = False,
    as_json: bool = False,
) -> int:
    """Audit, and print what was found: a line for each offender as it is found, then the counts; or one JSON object.

    With `repair`, send what has no verdict to product_consumer first, and wait for the verdicts: the report, and with
    it the exit code, is about what is there afterwards. `lag_s`: how long an order may be without a verdict.

    Returns 0 when nothing is wrong, 1 when anything is, 130 after Ctrl-C. Raises HeadraceError when the stack does not
    run and no database was named, or the database or the broker does not answer.
    """
    target = choose_target(home, database_url, amqp_url)
    broker = target.known_broker() if repair else None
    report = Report(lag_s, as_json=as_json)
    if target.health:
        report.waits(waiting_at(target.health, own_token(home)))
    try:
        uvloop.run(_run(target.database, report, broker))
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0 if report.is_clean else 1


# ── I/O below


async def _run(database_url: str, report: Report, repair_with: str | None) -> None:
    """`repair_with`: the broker; None: only look."""
    async with _connected(database_url) as connection:
        if repair_with:
            report.resent = await _repair(connection, repair_with, report.lag_s)
        since = time.monotonic()
        counts = await audit(connection, report.lag_s, report.add, _tell)
        report.end(counts, time.monotonic() - since)


async def _repair(connection: Connection, amqp_url: str, lag_s: float) -> int:
    """Send what is late, and wait until it is decided or nothing moves any more. How many were sent."""
    _tell("looking for orders without a verdict")
    ids = await resend(connection, amqp_url, lag_s)
    if ids:
        _tell(f"sent {len(ids):,} orders again; waiting for their verdicts")
        await drain(connection, ids, lambda _: None, DECIDING_PATIENCE_S)
    return len(ids)


def _tell(text: str) -> None:
    """For who waits before a terminal."""
    if err.is_terminal:
        err.print(f"  {text} ...", markup=False)


@asynccontextmanager
async def _connected(database_url: str) -> AsyncIterator[Connection]:
    """Raises HeadraceError for whatever the database has against the block."""
    try:
        connection = await asyncpg.connect(database_url, timeout=CONNECT_TIMEOUT_S, server_settings=SESSION)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise HeadraceError(f"the database does not answer: {error}", fix=FIX) from error
    try:
        yield connection
    except asyncpg.UndefinedTableError as error:
        what = f"this is no database of Headrace, or not of this version: {error}"
        raise HeadraceError(what, fix="name another one, or migrate it: ./headrace up -d") from error
    except BrokenPipeError:
        raise  # nobody reads what we print
    except (ConnectionError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise HeadraceError(f"the database broke off: {error}", "what was printed is not all", FIX) from error
    finally:
        connection.terminate()
