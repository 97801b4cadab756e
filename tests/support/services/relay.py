"""event_relay on real servers: a process of it, hooks in its tables, and events in its log."""

import base64
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from database.channels import VERDICTS
from database.connection import Connection
from database.dead_letters import DeadLetter, park
from pipeline.contract.hooks import CHANGED, SECRET_BYTES, SECRET_PREFIX
from pipeline.contract.orders import AnyOrder
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from tests.support.services.processes import Service, service_process
from tests.support.services.workers import settle

ALLOWED = {"EVENT_RELAY_ALLOW_PRIVATE_ADDRESSES": "true"}
_ADD = "INSERT INTO hooks (url, types, product_id, batch, delivered) VALUES ($1, $2, $3, $4, $5) RETURNING id::text"
_SIGN_WITH = "INSERT INTO hook_secrets (hook_id, secret) VALUES ($1, $2)"


@asynccontextmanager
async def relaying(environment: Mapping[str, str], **settings: object) -> AsyncIterator[Service]:
    """A process of event_relay, ready, that may send to this machine."""
    variables = {f"EVENT_RELAY_{name.upper()}": str(value) for name, value in settings.items()}
    async with service_process("event_relay", {**environment, **ALLOWED, **variables}) as service:
        yield service


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


async def add_hook(
    connection: Connection,
    url: str,
    *,
    batch: int = 1,
    types: list[str] | None = None,
    product_id: str | None = None,
    delivered: int = 0,
    secret: str | None = None,
) -> str:
    """Add a hook that begins after the offset `delivered`. Returns its id.

    In one transaction, as the command: a relay that sees the hook without its secret counts a failure.
    """
    async with connection.transaction():
        hook_id: str = await connection.fetchval(_ADD, url, types, product_id, batch, delivered)
        await connection.execute(_SIGN_WITH, hook_id, secret or new_secret())
        await connection.execute(f"NOTIFY {CHANGED}")
    return hook_id


async def change_hook(connection: Connection, hook_id: str, assignments: str) -> None:
    """Change a hook's row, and tell event_relay."""
    await connection.execute(f"UPDATE hooks SET {assignments} WHERE id = $1", hook_id)
    await connection.execute(f"NOTIFY {CHANGED}")


async def hook_row(connection: Connection, hook_id: str) -> Any:
    return await connection.fetchrow("SELECT * FROM hooks WHERE id = $1", hook_id)


async def attempts_of(connection: Connection, hook_id: str) -> list[asyncpg.Record]:
    """The oldest first."""
    return await connection.fetch("SELECT * FROM hook_attempts WHERE hook_id = $1 ORDER BY id", hook_id)


async def decide(connection: Connection, *orders: AnyOrder) -> None:
    """Store and decide orders in one batch, as the workers do. Of unknown products, so each fails.

    `connection`: prepared as persist_worker's.
    """
    await settle(connection, list(orders))
    await connection.execute(f"NOTIFY {VERDICTS}")


async def park_order(connection: Connection, order: AnyOrder) -> None:
    async with connection.transaction():
        await park(connection, Stage.STOCK, [DeadLetter.of_order(order, Reason.INVALID_DATA, "")])
    await connection.execute(f"NOTIFY {VERDICTS}")


async def replay_letters(connection: Connection) -> None:
    """Mark all letters as replayed: their orders may be decided."""
    await connection.execute("UPDATE dead_letters SET replayed_at = now() WHERE replayed_at IS NULL")
