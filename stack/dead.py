"""`dead`: what could not be stored or decided, one by one, and back into the pipeline once its cause is mended."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

import asyncpg
from rich.table import Table
from rich.text import Text

from pipeline.publisher import Outcome
from stack.audit import Connection
from stack.console import say, show_table, spinner
from stack.dead_sql import Filters, Letter, count_waiting, list_letters, show_letter
from stack.errors import HeadraceError
from stack.home import Home
from stack.publishing import CAUSES, publishing
from stack.replay import KEYS, Replayed, declare, replay, send_by
from stack.table import without_password
from stack.target import choose_target

T = TypeVar("T")

INTERRUPTED = 130
"""The exit code after Ctrl-C: 128 + SIGINT."""

_CONNECT_TIMEOUT_S = 10.0
_COMMAND_TIMEOUT_S = 300.0
_DATABASE_AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
_DETAIL_WIDTH = 80
_AGO = re.compile(r"([0-9]{1,9})(s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

AGAIN = "./headrace dead replay, again: what is sent twice is one order"


def show_list(home: Home, filters: Filters, *, replayed: bool, limit: int, as_json: bool) -> int:
    """Print the letters that wait for their replay, the latest first; with `replayed` the others too. Returns 0."""

    async def ask(connection: Connection) -> tuple[list[Letter], Counter[tuple[str, str]]]:
        letters = await list_letters(connection, filters, replayed=replayed, limit=limit)
        return letters, await count_waiting(connection, filters)

    letters, waiting = _asked(home, ask)
    if as_json:
        print(json.dumps([_as_dict(letter) for letter in letters]))
        return 0
    if letters:
        show_table(_table(letters))
        say()
    say(f"{waiting.total()} wait for their replay" + (f": {_counts(waiting)}" if waiting else ""))
    if len(letters) == limit:
        say(f"shown are the latest {limit}; more with --limit")
    return 0


def show_one(home: Home, letter_id: int) -> int:
    """Print all there is to know of a letter, its body with nothing left out. Returns 0. Raises HeadraceError."""
    found = _asked(home, lambda connection: show_letter(connection, letter_id))
    if found is None:
        raise HeadraceError(
            f"there is no dead letter {letter_id}", "the id is the first column", "./headrace dead list"
        )
    letter, body = found
    for name, value in _fields(letter).items():
        print(f"{name:<11}{printable(value)}")
    print(f"body       {letter.body_bytes} bytes")
    print(printable(body.decode(errors="backslashreplace")))
    return 0


def replay_letters(
    home: Home, filters: Filters, *, dry_run: bool, limit: int | None, rate: float, as_json: bool
) -> int:
    """Send the letters that wait once more, and print how many. `rate`: letters a second.

    Returns 0; 1 if the broker did not confirm all that was sent. Raises HeadraceError when a server is away.
    """
    if dry_run:
        return _tell_what_would_be(home, filters, limit, as_json=as_json)
    target, done = choose_target(home), Replayed()
    broker = target.known_broker()
    try:
        with spinner("replaying"):
            asyncio.run(_replay(target.database, broker, filters, done, limit, rate))
    except _DATABASE_AWAY as error:
        raise _lost(target.database, error, done) from error
    except KeyboardInterrupt:
        _tell(done, as_json=as_json)
        return INTERRUPTED
    _tell(done, as_json=as_json)
    if done.unconfirmed:
        raise _unconfirmed(done)
    return 0


# ── what is asked for


def filters_of(
    ids: Sequence[int],
    stage: str | None,
    reason: str | None,
    order: UUID | None,
    product: UUID | None,
    since: str | None,
    until: str | None,
) -> Filters:
    """As the command line has them. Raises HeadraceError."""
    order_id, product_id = (None if it is None else str(it) for it in (order, product))
    return Filters(tuple(ids), stage, reason, order_id, product_id, moment(since), moment(until))


def moment(text: str | None) -> datetime | None:
    """An ISO 8601 date and time, UTC if it has no zone, or how long ago: 90s, 15m, 2h, 7d. Raises HeadraceError."""
    if text is None:
        return None
    if ago := _AGO.fullmatch(text):
        return _before_now(timedelta(**{_UNITS[ago[2]]: int(ago[1])}))
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        cause = "a time is 2026-01-31T09:00 (UTC) or 2026-01-31T09:00+01:00, or how long ago: 15m, 2h, 7d"
        raise HeadraceError(f"{text[:80]!r} is no time", cause, "./headrace dead list --since 2h") from None
    return given if given.tzinfo else given.replace(tzinfo=UTC)


def _before_now(ago: timedelta) -> datetime:
    try:
        return datetime.now(UTC) - ago
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


# ── how it is shown


def printable(text: str) -> str:
    """Text as a terminal may have it: control characters, and what turns its direction, are told and not obeyed.

    Input that nobody could read is in here, and whoever sent it may have meant it for this terminal.
    """
    told = "".join(it if it.isprintable() else it.encode("unicode_escape").decode() for it in text)
    encoding = sys.stdout.encoding or "ascii"
    return told.encode(encoding, "backslashreplace").decode(encoding)


def _as_dict(letter: Letter) -> dict[str, object]:
    moments = {"first_seen_at": _iso(letter.first_seen_at), "replayed_at": _iso(letter.replayed_at)}
    return {**asdict(letter), **moments}


def _iso(when: datetime | None) -> str | None:
    return when.astimezone(UTC).isoformat() if when else None


def _table(letters: list[Letter]) -> Table:
    table = Table("id", "order", "stage", "reason", "first seen", "replayed", "detail", box=None, padding=(0, 2, 0, 0))
    for it in letters:
        words = (
            str(it.id),
            it.order_id or "-",
            it.stage,
            it.reason,
            _second(it.first_seen_at),
            _second(it.replayed_at),
        )
        detail = it.detail if len(it.detail) <= _DETAIL_WIDTH else f"{it.detail[:_DETAIL_WIDTH]}..."
        table.add_row(*(Text(printable(word)) for word in (*words, detail)))
    return table


def _second(when: datetime | None) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if when else "-"


def _fields(letter: Letter) -> dict[str, str]:
    return {
        "letter": str(letter.id),
        "order": letter.order_id or "- (the input does not say)",
        "stage": f"{letter.stage}: a replay sends it to {KEYS[letter.stage]}",
        "reason": letter.reason,
        "detail": letter.detail,
        "schema": "- (the message did not say)" if letter.schema_version is None else str(letter.schema_version),
        "first seen": _iso(letter.first_seen_at) or "",
        "replayed": _iso(letter.replayed_at) or "-",
    }


def _counts(counts: Mapping[tuple[str, str], int]) -> str:
    return ", ".join(printable(f"{count} {stage} {reason}") for (stage, reason), count in counts.items())


def _tell(done: Replayed, *, as_json: bool) -> None:
    unconfirmed = {outcome.value: count for outcome, count in done.unconfirmed.items()}
    if as_json:
        print(json.dumps({"replayed": dict(done.confirmed), "unconfirmed": unconfirmed}))
        return
    where = ", ".join(f"{count} to {KEYS[stage]}" for stage, count in sorted(done.confirmed.items()))
    say(f"replayed {done.confirmed.total()} dead letters" + (f": {where}" if where else ""))
    if unconfirmed:
        say("not confirmed: " + ", ".join(f"{count} {outcome}" for outcome, count in unconfirmed.items()))


def _tell_what_would_be(home: Home, filters: Filters, limit: int | None, *, as_json: bool) -> int:
    waiting = _asked(home, lambda connection: count_waiting(connection, filters))
    if as_json:
        print(json.dumps([{"stage": stage, "reason": reason, "count": it} for (stage, reason), it in waiting.items()]))
        return 0
    count = waiting.total() if limit is None else min(limit, waiting.total())
    say(
        f"would replay {count} dead letters of {waiting.total()} that wait"
        + (f": {_counts(waiting)}" if waiting else "")
    )
    return 0


def _unconfirmed(done: Replayed) -> HeadraceError:
    causes = "; ".join(CAUSES[outcome] for outcome in Outcome if outcome in done.unconfirmed)
    return HeadraceError(
        f"{done.unconfirmed.total()} dead letters were not confirmed, and go on waiting", causes, AGAIN
    )


def _lost(url: str, error: Exception, done: Replayed) -> HeadraceError:
    if not done.count:
        return _no_database(url, error)
    what = f"the database was lost after {done.confirmed.total()} dead letters had been replayed"
    return HeadraceError(what, f"{error}: what was sent last goes on waiting, and may have arrived", AGAIN)


def _no_database(url: str, error: Exception) -> HeadraceError:
    what = f"cannot read the dead letters in {without_password(url)}"
    return HeadraceError(what, str(error) or type(error).__name__, "./headrace status, or correct DATABASE_URL")


# ── I/O below


def _asked(home: Home, ask: Callable[[Connection], Awaitable[T]]) -> T:
    """The answer to one question. Raises HeadraceError."""
    url = choose_target(home).database

    async def run() -> T:
        async with _connected(url) as connection:
            return await ask(connection)

    try:
        return asyncio.run(run())
    except _DATABASE_AWAY as error:
        raise _no_database(url, error) from error


async def _replay(database: str, broker: str, filters: Filters, done: Replayed, limit: int | None, rate: float) -> None:
    async with _connected(database) as connection:
        if not await count_waiting(connection, filters):
            return  # and no broker is needed
        async with publishing(broker, "dead replay", declare) as publisher:
            await replay(connection, send_by(publisher), filters, done, limit=limit, rate=rate)


@asynccontextmanager
async def _connected(database_url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(
        database_url,
        timeout=_CONNECT_TIMEOUT_S,
        command_timeout=_COMMAND_TIMEOUT_S,
        server_settings={
            "application_name": "headrace dead",
            # As the workers' own: one that is frozen between two commands keeps what it has locked from them.
            "idle_in_transaction_session_timeout": "30s",
        },
    )
    try:
        yield connection
    finally:
        connection.terminate()
