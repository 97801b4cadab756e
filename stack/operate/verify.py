"""`./headrace verify`: audits a running system's database, or any Headrace database."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import uvloop

from proof.accounting_sql import Connection, drain, with_waiting_cancellation
from proof.audit_sql import SESSION, audit
from stack.errors import HeadraceError
from stack.home.directory import Home
from stack.home.key_file import own_token
from stack.operate.demo.demo import INTERRUPTED
from stack.operate.repair import resend, resend_cancellations
from stack.operate.target import choose_target
from stack.operate.verify_report import Report
from stack.run.backlog import waiting_at
from stack.terminal import err

CONNECT_TIMEOUT_S = 10.0
# Seconds without progress after a resend. Longer than a killed product_consumer takes to come back.
DECIDING_PATIENCE_S = 30.0
FIX = "./headrace status, or check the database that you named; then again: ./headrace verify"


def verify(
    home: Home,
    *,
    lag_s: float,
    database_url: str | None = None,
    amqp_url: str | None = None,
    repair: bool = False,
    as_json: bool = False,
) -> int:
    """Audit, and print each offender as it is found, then the counts; or one JSON object.

    With `repair`, first resend orders without a verdict and forgotten cancellations, and wait until they are settled;
    the report and the exit code are about the state afterwards. `lag_s`: how long an order may wait for its verdict,
    and a cancellation of a decided order for its effect.

    Returns 0 if nothing is wrong, 1 if something is, 130 after Ctrl-C. Raises HeadraceError if no stack runs and no
    database is named, or if the database or the broker does not answer.
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
    """`repair_with`: URL of the broker; None: no repair."""
    async with _connected(database_url) as connection:
        if repair_with:
            report.resent = await _repair(connection, repair_with, report.lag_s)
            report.resent_cancellations = await _repair_cancellations(connection, repair_with, report.lag_s)
        since = time.monotonic()
        counts = await audit(connection, report.lag_s, report.add, _tell)
        report.end(counts, time.monotonic() - since)


async def _repair(connection: Connection, amqp_url: str, lag_s: float) -> int:
    """Resend late orders, and wait until they are decided or nothing moves. Returns how many were sent."""
    _tell("looking for orders without a verdict")
    ids = await resend(connection, amqp_url, lag_s)
    if ids:
        _tell(f"sent {len(ids):,} orders again; waiting for their verdicts")
        await drain(connection, ids, lambda _: None, DECIDING_PATIENCE_S)
    return len(ids)


async def _repair_cancellations(connection: Connection, amqp_url: str, lag_s: float) -> int:
    """Resend forgotten cancellations, and wait until they are settled or nothing moves. Returns how many were sent."""
    _tell("looking for cancellations of decided orders")
    ids = await resend_cancellations(connection, amqp_url, lag_s)
    if ids:
        _tell(f"sent {len(ids):,} cancellations again; waiting until they are settled")
        await drain(connection, ids, lambda _: None, DECIDING_PATIENCE_S, with_waiting_cancellation)
    return len(ids)


def _tell(text: str) -> None:
    """Show progress on a terminal."""
    if err.is_terminal:
        err.print(f"  {text} ...", markup=False)


@asynccontextmanager
async def _connected(database_url: str) -> AsyncIterator[Connection]:
    """A connection. Raises HeadraceError for an error of the database within the block."""
    try:
        connection = await asyncpg.connect(database_url, timeout=CONNECT_TIMEOUT_S, server_settings=SESSION)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise HeadraceError(f"the database does not answer: {error}", fix=FIX) from error
    try:
        yield connection
    except asyncpg.UndefinedTableError as error:
        what = f"this is not a Headrace database, or it is of another version: {error}"
        raise HeadraceError(what, fix="name another database, or migrate this one: ./headrace up -d") from error
    except BrokenPipeError:
        raise  # our standard output was closed
    except (ConnectionError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise HeadraceError(
            f"the connection to the database was lost: {error}", "the report above is incomplete", FIX
        ) from error
    finally:
        connection.terminate()
