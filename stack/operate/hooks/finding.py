"""Finds a hook by the beginning of its id, and a place by a cursor or a time, on one connection per command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from proof.accounting_sql import Connection
from stack.errors import HeadraceError
from stack.home.directory import Home
from stack.operate.hooks import sql
from stack.operate.hooks.rules import LIST, Place, check_id, check_place, moment_of
from stack.operate.hooks.sql import Hook
from stack.operate.session import asked

T = TypeVar("T")


def on_hooks(home: Home, ask: Callable[[Connection], Awaitable[T]]) -> T:
    """Run `ask` on a connection of its own. Raises HeadraceError."""
    return asked(home, "hooks", "hooks", ask)


def changed(home: Home, prefix: str, change: Callable[[Connection, Hook], Awaitable[object]]) -> Hook:
    """Apply `change` to the hook. Returns the hook as it is afterwards."""

    async def run(connection: Connection) -> Hook:
        hook = await find(connection, prefix)
        await change(connection, hook)
        return await find(connection, hook.id)

    return on_hooks(home, run)


async def find(connection: Connection, prefix: str) -> Hook:
    """The one hook whose id begins with `prefix`."""
    found = await sql.find_hooks(connection, check_id(prefix))
    if not found:
        raise HeadraceError(f"there is no hook {prefix[:80]}", "it was removed, or is another database's", LIST)
    if len(found) > 1:
        cause = f"{found[0].id} and {found[1].id} begin with it"
        raise HeadraceError(f"more than one hook is {prefix}", cause, "pass more of the id")
    return found[0]


async def offset_of(connection: Connection, place: Place) -> int:
    """The offset after which a hook goes on that begins at `place`."""
    log = await sql.numbered_log(connection)
    check_place(place, log.id, log.last_offset)
    if place.since is not None:
        return await sql.offset_at(connection, moment_of(place.since, await sql.now(connection)))
    return log.last_offset if place.log_id is None else place.offset
