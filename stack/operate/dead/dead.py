"""`dead`: lists, shows, replays and discards dead letters: orders that could not be stored or decided."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from pipeline.broker.publisher import Outcome
from pipeline.contract import topology
from proof.accounting_sql import Connection
from stack.errors import HeadraceError
from stack.home.directory import Home
from stack.operate.dead.discard import MOST_CHARACTERS, Discarded, discard
from stack.operate.dead.replay import Replayed, declare, replay, send_by
from stack.operate.dead.report import as_dict, as_list, counts, fields, table
from stack.operate.dead.sql import (
    AlsoShown,
    DeadLetter,
    Filters,
    count_letters,
    count_waiting,
    list_letters,
    show_letter,
)
from stack.operate.moments import moment
from stack.operate.publishing import CAUSES, publishing
from stack.operate.session import DATABASE_AWAY, asked, connected, no_database
from stack.operate.target import choose_target
from stack.terminal import printable, say, show_table, spinner

T = TypeVar("T")

INTERRUPTED = 130
"""The exit code after Ctrl-C: 128 + SIGINT."""

_COMMAND, _SUBJECT = "dead", "dead letters"
_TABLE_ROWS = 50

AGAIN = "./headrace dead replay, again: an order that is sent twice is one order"


def show_list(home: Home, filters: Filters, also: AlsoShown, *, limit: int | None, as_json: bool) -> int:
    """Print the waiting letters, newest first; with `also`, settled ones too. Returns 0.

    `limit`: None shows the newest 50 in a table, and all as JSON. A note says how many are left out; with JSON it goes
    to standard error.
    """
    shown = limit if limit or as_json else _TABLE_ROWS

    async def ask(connection: Connection) -> tuple[list[DeadLetter], int, Counter[tuple[str, str]]]:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            letters = await list_letters(connection, filters, also, shown)
            count = await count_letters(connection, filters, also)
            return letters, count, await count_waiting(connection, filters)

    letters, count, waiting = _asked(home, ask)
    left_out = f"showing the newest {len(letters)} of {count}; more with --limit"
    if as_json:
        print(json.dumps([as_dict(letter) for letter in letters]))
        if len(letters) < count:
            print(left_out, file=sys.stderr)
        return 0
    if letters:
        show_table(table(letters))
        say()
    say(f"{waiting.total()} waiting to be replayed" + (f": {counts(waiting)}" if waiting else ""))
    if len(letters) < count:
        say(left_out)
    return 0


def show_one(home: Home, letter_id: int) -> int:
    """Print a letter's fields and its whole body. Returns 0. Raises HeadraceError."""
    found = _asked(home, lambda connection: show_letter(connection, letter_id))
    if found is None:
        raise HeadraceError(
            f"there is no dead letter {letter_id}", "the id is the first column", "./headrace dead list"
        )
    letter, body = found
    for name, value in fields(letter).items():
        print(f"{name:<11}{printable(value)}")
    print(f"body       {letter.body_bytes} bytes")
    print(printable(body.decode(errors="backslashreplace")))
    return 0


def replay_letters(
    home: Home, filters: Filters, *, dry_run: bool, limit: int | None, rate: float, as_json: bool
) -> int:
    """Replay the waiting letters, and print how many. `rate`: letters a second.

    Returns 0, or 130 after Ctrl-C. Raises HeadraceError if a server is away, or the broker did not confirm all letters.
    """
    if dry_run:
        return _tell_what_would_be(home, filters, limit, as_json=as_json)
    target, done = choose_target(home), Replayed()
    broker = target.known_broker()
    try:
        with spinner("replaying"):
            asyncio.run(_replay(target.database, broker, filters, done, limit, rate))
    except DATABASE_AWAY as error:
        raise _lost(target.database, error, done) from error
    except KeyboardInterrupt:
        _tell(done, as_json=as_json)
        return INTERRUPTED
    _tell(done, as_json=as_json)
    if done.unconfirmed:
        raise _unconfirmed(done)
    return 0


def discard_letters(home: Home, filters: Filters, why: str, *, dry_run: bool, as_json: bool) -> int:
    """Discard the waiting letters, for the reason `why`, and print how many. Returns 0. Raises HeadraceError."""
    why = why.strip()
    if not why or len(why) > MOST_CHARACTERS or not why.isprintable():
        cause = f"the reason is stored with the letter: 1 to {MOST_CHARACTERS} characters, in one line"
        raise HeadraceError(
            "--reason is missing or unusable", cause, './headrace dead discard 17 --reason "a test order"'
        )
    if dry_run:
        return _tell_what_would_be(home, filters, None, as_json=as_json, what="discard")
    done: Discarded = Counter()
    url = choose_target(home).database

    async def run() -> None:
        async with connected(url, _COMMAND) as connection:
            await discard(connection, filters, why, done)

    try:
        asyncio.run(run())
    except DATABASE_AWAY as error:
        if not done:
            raise no_database(url, _SUBJECT, error) from error
        what = f"the database was lost after {done.total()} dead letters had been discarded"
        raise HeadraceError(what, str(error), "the same command, again") from error
    if as_json:
        print(json.dumps({"discarded": as_list(done)}))
        return 0
    say(f"discarded {done.total()} dead letters" + (f": {counts(done)}" if done else ""))
    return 0


# ── filters


def filters_of(
    ids: Sequence[int],
    stage: str | None,
    reason: str | None,
    order: UUID | None,
    product: UUID | None,
    since: str | None,
    until: str | None,
) -> Filters:
    """Filters from the command line's options. Raises HeadraceError."""
    order_id, product_id = (None if it is None else str(it) for it in (order, product))
    return Filters(tuple(ids), stage, reason, order_id, product_id, _moment(since), _moment(until))


def _moment(text: str | None) -> datetime | None:
    return None if text is None else moment(text, "./headrace dead list --since 2h")


def _tell(done: Replayed, *, as_json: bool) -> None:
    unconfirmed = {outcome.value: count for outcome, count in done.unconfirmed.items()}
    if as_json:
        print(json.dumps({"replayed": dict(done.confirmed), "unconfirmed": unconfirmed}))
        return
    where = ", ".join(f"{count} to {topology.KEYS[stage]}" for stage, count in sorted(done.confirmed.items()))
    say(f"replayed {done.confirmed.total()} dead letters" + (f": {where}" if where else ""))
    if unconfirmed:
        say("not confirmed: " + ", ".join(f"{count} {outcome}" for outcome, count in unconfirmed.items()))


def _tell_what_would_be(home: Home, filters: Filters, limit: int | None, *, as_json: bool, what: str = "replay") -> int:
    async def ask(connection: Connection) -> tuple[Counter[tuple[str, str]], int]:
        meant = await count_waiting(connection, filters, limit)
        return meant, (await count_waiting(connection, filters)).total()

    meant, waiting = _asked(home, ask)
    if as_json:
        print(json.dumps(as_list(meant)))
        return 0
    say(f"would {what} {meant.total()} of {waiting} waiting dead letters" + (f": {counts(meant)}" if meant else ""))
    return 0


def _unconfirmed(done: Replayed) -> HeadraceError:
    causes = "; ".join(CAUSES[outcome] for outcome in Outcome if outcome in done.unconfirmed)
    return HeadraceError(
        f"the broker did not confirm {done.unconfirmed.total()} dead letters, which keep waiting", causes, AGAIN
    )


def _lost(url: str, error: Exception, done: Replayed) -> HeadraceError:
    if not done.count:
        return no_database(url, _SUBJECT, error)
    what = f"the database was lost after {done.confirmed.total()} dead letters had been replayed"
    return HeadraceError(what, f"{error}: the letters sent last keep waiting, and may have arrived", AGAIN)


# ── I/O below


def _asked(home: Home, ask: Callable[[Connection], Awaitable[T]]) -> T:
    return asked(home, _COMMAND, _SUBJECT, ask)


async def _replay(database: str, broker: str, filters: Filters, done: Replayed, limit: int | None, rate: float) -> None:
    async with connected(database, _COMMAND) as connection:
        if not await count_waiting(connection, filters):
            return  # without asking for a broker
        async with publishing(broker, "dead replay", declare) as publisher:
            await replay(connection, send_by(publisher), filters, done, limit=limit, rate=rate)
