"""Measures what an Idempotency-Key costs the database, by the kind of key.

python -m benchmarks.experiments.key_locality [--rows N]

The id of an order derives from its key. A UUIDv7 key lends it the time, so that its rows go to the right edge of the
indexes as those of unkeyed orders do; with any other key they go anywhere. Writes orders and nothing else, by
persist_worker's own COPY, in batches of 500, on a private PostgreSQL with the stack's settings, and prints a table.
The result: benchmarks/results/key_locality.json.
"""

import argparse
import asyncio
import json
import os
import platform
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import asyncpg

from database.connection import Connection
from database.sessions import session_settings
from migrations.__main__ import migrate
from persist_worker.write import prepare, write
from pipeline.contract.order_ids import OrderIds
from pipeline.contract.orders import Order
from stack.supervisor.launch import private_servers

RESULT = Path(__file__).parents[1] / "results" / "key_locality.json"
BATCH_ORDERS = 500
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PRODUCTS = [str(uuid.uuid4()) for _ in range(1_000)]


@dataclass(frozen=True)
class Measured:
    """Of the last fifth of the rows, when the indexes are no longer small."""

    keys: str
    rows: int
    rows_per_s: int
    postgres_cpu_us_per_row: float
    wal_bytes_per_row: int
    primary_key_mb: float


def uuid7() -> str:
    """A UUID version 7 of now (RFC 9562, section 5.7)."""
    bits = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return str(uuid.UUID(int=bits & ~(0xF << 76) & ~(0b11 << 62) | 7 << 76 | 0b10 << 62))


def kinds(ids: OrderIds) -> dict[str, Callable[[], str]]:
    """What makes an order's id, by the kind of key."""
    return {
        "none": ids.mint,
        "UUIDv7": lambda: ids.derive("", uuid7(), ""),
        "UUIDv4": lambda: ids.derive("", str(uuid.uuid4()), ""),
    }


def batch(make_id: Callable[[], str]) -> list[Order]:
    now, price = datetime.now(UTC), Decimal("12.50")
    orders = [Order(make_id(), _PRODUCTS[i % 1_000], 1, price, price, now) for i in range(BATCH_ORDERS)]
    return sorted(orders, key=lambda order: order.id)


# ── I/O below


async def measure(database_url: str, keys: str, make_id: Callable[[], str], rows: int) -> Measured:
    connection = await asyncpg.connect(database_url, server_settings=session_settings("key_locality"))
    await prepare(connection)
    watched = rows // BATCH_ORDERS // 5
    for _ in range(4 * watched):
        await write(connection, batch(make_id), [])
    batches = [batch(make_id) for _ in range(watched)]
    wal, before_s, since = await _wal_bytes(connection), cpu_s(connection), time.perf_counter()
    for orders in batches:
        await write(connection, orders, [])
    seconds = time.perf_counter() - since
    wal, used_s = await _wal_bytes(connection) - wal, cpu_s(connection) - before_s
    index_bytes = await connection.fetchval("SELECT pg_relation_size('orders_pkey')")
    await connection.close()
    count = watched * BATCH_ORDERS
    cpu_us = round(used_s / count * 1e6, 1)
    return Measured(keys, rows, round(count / seconds), cpu_us, round(wal / count), round(index_bytes / 1e6, 1))


async def _wal_bytes(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))


def cpu_s(connection: Connection) -> float:
    """User and system time of the connection's server process so far."""
    fields = Path(f"/proc/{connection.get_server_pid()}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


async def run(server_url: str, rows: int) -> list[Measured]:
    results = []
    for keys, make_id in kinds(OrderIds(secrets.token_hex(32))).items():
        name = f"key_locality_{keys.lower()}"
        administrator = await asyncpg.connect(server_url)
        await administrator.execute(f"CREATE DATABASE {name}")
        await administrator.execute("CHECKPOINT")
        await administrator.close()
        url = f"{server_url.rpartition('/')[0]}/{name}"
        await migrate(url)
        results.append(await measure(url, keys, make_id, rows))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with private_servers() as servers:
        results = asyncio.run(run(servers.database_url, rows))
    machine = {"python": platform.python_version(), "cores": os.cpu_count()}
    RESULT.write_text(json.dumps({"machine": machine, "results": [asdict(it) for it in results]}, indent=2) + "\n")
    print(f"{'key':8} {'rows/s':>8} {'CPU µs/row':>11} {'WAL B/row':>10} {'index MB':>9}")
    for it in results:
        print(
            f"{it.keys:8} {it.rows_per_s:8} {it.postgres_cpu_us_per_row:11} {it.wal_bytes_per_row:10}"
            f" {it.primary_key_mb:9}"
        )


if __name__ == "__main__":
    main()
