"""One connection to PostgreSQL for one command, as the operator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import asyncpg

from proof.accounting_sql import Connection
from proof.sessions import COMMAND_SETTINGS
from stack.errors import HeadraceError
from stack.home.directory import Home
from stack.operate.target import choose_target
from stack.run.table import without_password

T = TypeVar("T")

DATABASE_AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What a connection raises when its server cannot be used."""

_CONNECT_TIMEOUT_S = 10.0
_COMMAND_TIMEOUT_S = 300.0


def no_database(url: str, subject: str, error: Exception) -> HeadraceError:
    """The error to show for one of DATABASE_AWAY. `subject`: what the command works on, such as `dead letters`."""
    what = f"cannot read the {subject} in {without_password(url)}"
    return HeadraceError(what, str(error) or type(error).__name__, "./headrace status, or correct DATABASE_URL")


# ── I/O below


def asked(home: Home, command: str, subject: str, ask: Callable[[Connection], Awaitable[T]]) -> T:
    """Run `ask` on a connection of its own to the command's database. Raises HeadraceError."""
    url = choose_target(home).database

    async def run() -> T:
        async with connected(url, command) as connection:
            return await ask(connection)

    try:
        return asyncio.run(run())
    except DATABASE_AWAY as error:
        raise no_database(url, subject, error) from error


@asynccontextmanager
async def connected(database_url: str, command: str) -> AsyncIterator[Connection]:
    """A connection that PostgreSQL lists as `headrace COMMAND`."""
    connection = await asyncpg.connect(
        database_url,
        timeout=_CONNECT_TIMEOUT_S,
        command_timeout=_COMMAND_TIMEOUT_S,
        server_settings={**COMMAND_SETTINGS, "application_name": f"headrace {command}"},
    )
    try:
        yield connection
    finally:
        connection.terminate()
