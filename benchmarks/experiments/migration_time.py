"""Measures what each revision since the previous release costs a database with many orders, while orders flow.

python -m benchmarks.experiments.migration_time [--orders N] [--rate N]

On a private PostgreSQL with the stack's settings: a database with the schema of release 0.2.0, filled by SQL with
orders of one line, nine in ten PROCESSED, over 1,000 products. Beside it, sessions of their own do what the services
do: persist_worker's COPY of new orders, product_consumer's transaction on each stored batch, and a read of one order.
Orders arrive evenly, and those that arrive while a COPY waits are in the next. The longest wait of each beside a
revision says how long it has locked what that session needs. The result: benchmarks/results/migration_time.json.
"""

import argparse
import asyncio
import json
import os
import platform
import time
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import asyncpg

from database.connection import Connection
from migrations.__main__ import _revisions, migrate
from persist_worker.write import write
from pipeline.contract.order_ids import OrderIds
from pipeline.contract.orders import Order
from product_consumer.ledger import record
from stack.supervisor.launch import private_servers

RESULT = Path(__file__).parents[1] / "results" / "migration_time.json"
BEFORE = "0006_product_requests"
"""The last revision of release 0.2.0."""
CHUNK_ORDERS = 500_000
MOST_AT_ONCE = 500
QUIET_S = 20.0
_EVERY_S = 0.05
_DATABASE = "migration_time"
_ID = (
    "lpad(to_hex(1767323045000 + i / 4), 12, '0')"
    " || overlay(overlay(substr(md5(i::text), 1, 20) PLACING '8' FROM 1) PLACING '8' FROM 5)"
)
_PREPARE = """
    ALTER TABLE orders DROP CONSTRAINT orders_pkey;
    ALTER TABLE stock_ledger DROP CONSTRAINT stock_ledger_pkey;
    DROP INDEX orders_of_product;
    INSERT INTO products (id, name, price, qty) SELECT md5('product' || n)::uuid, 'a thing', 12.50, 1000000000
    FROM generate_series(0, 999) n;
    CREATE TEMPORARY TABLE ids AS SELECT n, md5('product' || n)::uuid AS id FROM generate_series(0, 999) n;
"""
_FILL = (
    f"""
    INSERT INTO orders (id, product_id, quantity, unit_price, total_price, accepted_at, persisted_at)
    SELECT ({_ID})::uuid, ids.id, 1, 12.50, 12.50, t, t
    FROM generate_series($1::bigint, $2::bigint) i JOIN ids ON n = i % 1000,
         LATERAL (SELECT timestamptz '2026-01-02' + i * interval '250 us' AS t) at
    """,
    f"""
    INSERT INTO stock_ledger (order_id, product_id, quantity, outcome, reason, decided_at)
    SELECT ({_ID})::uuid, ids.id, 1, CASE WHEN i % 10 = 0 THEN 'FAILED' ELSE 'PROCESSED' END,
           CASE WHEN i % 10 = 0 THEN 'out_of_stock' END, timestamptz '2026-01-02 00:00:01' + i * interval '250 us'
    FROM generate_series($1::bigint, $2::bigint) i JOIN ids ON n = i % 1000
    """,
)
_FINISH = """
    ALTER TABLE orders ADD PRIMARY KEY (id);
    ALTER TABLE stock_ledger ADD PRIMARY KEY (order_id);
    CREATE INDEX orders_of_product ON orders (product_id, accepted_at DESC, id DESC);
"""
_SIZE = "SELECT pg_database_size(current_database())"
_TEMPORARY = "SELECT coalesce(sum(size), 0)::bigint FROM pg_ls_tmpdir()"


@dataclass(frozen=True)
class Waits:
    """The longest of each, in seconds, from before it asked to its commit."""

    copy_s: float
    verdict_s: float
    read_s: float


@dataclass(frozen=True)
class Measured:
    revision: str
    seconds: float
    waits: Waits
    database_mb: int
    """After it."""
    most_mb: int
    """While it ran, with temporary files, above what there was before."""
    wal_mb: int


@dataclass
class Flow:
    """What the sessions beside the migration did: when each began, and how long it took."""

    rate: int
    orders: int = 0
    copies: list[tuple[float, float]] = field(default_factory=list)
    verdicts: list[tuple[float, float]] = field(default_factory=list)
    reads: list[tuple[float, float]] = field(default_factory=list)
    most_bytes: int = 0

    def waits(self, since: float) -> Waits:
        """Of what ended after `since`."""
        return Waits(*(_longest(them, since) for them in (self.copies, self.verdicts, self.reads)))


def _longest(took: list[tuple[float, float]], since: float) -> float:
    return round(max((it for began, it in took if began + it > since), default=0.0), 3)


# ── I/O below


async def fill(connection: Connection, orders: int) -> None:
    """Fill a database of the previous release. Creates indexes after the rows, which is several times faster."""
    await connection.execute(_PREPARE)
    for first in range(0, orders, CHUNK_ORDERS):
        for statement in _FILL:
            await connection.execute(statement, first, min(first + CHUNK_ORDERS, orders) - 1)
    await connection.execute(_FINISH)
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("CHECKPOINT")


async def order(url: str, flow: Flow) -> None:
    """Store and decide orders as they arrive, until cancelled."""
    store, decide = await asyncpg.connect(url), await asyncpg.connect(url)
    ids, products = OrderIds("6b" * 32), [str(row[0]) for row in await store.fetch("SELECT id FROM products")]
    price, began, stored = Decimal("12.50"), time.perf_counter(), asyncio.Queue[list[Order]]()

    async def store_all() -> None:
        while True:
            due = min(int((time.perf_counter() - began) * flow.rate) - flow.orders, MOST_AT_ONCE)
            if due <= 0:
                await asyncio.sleep(_EVERY_S)
                continue
            numbers = range(flow.orders, flow.orders + due)
            new = [Order(ids.mint(), products[n % 1000], 1, price, price, datetime.now(UTC)) for n in numbers]
            await timed(flow.copies, write(store, new, []))
            flow.orders += due
            stored.put_nowait(new)

    async def decide_all() -> None:
        while True:
            new = await stored.get()
            await timed(flow.verdicts, record(decide, new, []))

    await asyncio.gather(store_all(), decide_all())


async def read(url: str, flow: Flow) -> None:
    """Read an order that is there, again and again."""
    connection = await asyncpg.connect(url)
    order_id: uuid.UUID = await connection.fetchval("SELECT id FROM orders LIMIT 1")
    query = "SELECT * FROM orders LEFT JOIN stock_ledger ON order_id = id WHERE id ="
    while True:
        # Planned anew: the columns may be others than before.
        await timed(flow.reads, connection.execute(f"{query} '{order_id}'"))
        await asyncio.sleep(_EVERY_S)


async def timed(into: list[tuple[float, float]], work: Awaitable[object]) -> None:
    began = time.perf_counter()
    await work
    into.append((began, time.perf_counter() - began))


async def watch(url: str, flow: Flow) -> None:
    """Note the most bytes of the database, with its temporary files."""
    connection = await asyncpg.connect(url)
    while True:
        flow.most_bytes = max(flow.most_bytes, await used(connection))
        await asyncio.sleep(0.5)


async def used(connection: Connection) -> int:
    return int(await connection.fetchval(_SIZE)) + int(await connection.fetchval(_TEMPORARY))


@asynccontextmanager
async def flowing(url: str, rate: int) -> AsyncIterator[Flow]:
    flow = Flow(rate)
    tasks = [asyncio.create_task(it(url, flow)) for it in (order, read, watch)]
    try:
        yield flow
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    if failed := [it for it in ended if not isinstance(it, asyncio.CancelledError)]:
        raise RuntimeError(f"a session beside the migration failed: {failed}")


async def apply(url: str, revision: str, connection: Connection, flow: Flow) -> Measured:
    before, lsn = await used(connection), await connection.fetchval("SELECT pg_current_wal_lsn()")
    flow.most_bytes, since = 0, time.perf_counter()
    await migrate(url, revision)
    seconds = time.perf_counter() - since
    await asyncio.sleep(1.0)  # a COPY that waited ends after it
    wal = await connection.fetchval("SELECT (pg_current_wal_lsn() - $1::pg_lsn)::bigint", lsn)
    most = max(flow.most_bytes, await used(connection)) - before
    size = await connection.fetchval(_SIZE)
    waits = flow.waits(since)
    return Measured(revision, round(seconds, 1), waits, round(size / 1e6), round(most / 1e6), round(wal / 1e6))


async def measure(url: str, orders: int, rate: int) -> tuple[Waits, int, list[Measured]]:
    """The waits without a migration, the size before it, and each revision."""
    await migrate(url, BEFORE)
    connection = await asyncpg.connect(url)
    await fill(connection, orders)
    size = await connection.fetchval(_SIZE)
    async with flowing(url, rate) as flow:
        since = time.perf_counter()
        await asyncio.sleep(QUIET_S)
        quiet = flow.waits(since)
        names = [it.stem for it in _revisions() if it.stem > BEFORE]
        measured = [await apply(url, name, connection, flow) for name in names]
    lost = orders + flow.orders - await connection.fetchval("SELECT count(*) FROM orders WHERE line = 0")
    assert -MOST_AT_ONCE <= lost <= 0, f"{lost} orders lost"  # the last COPY may be committed and not counted
    await connection.close()
    return quiet, round(size / 1e6), measured


async def run(server_url: str, orders: int, rate: int) -> dict[str, object]:
    administrator = await asyncpg.connect(server_url)
    await administrator.execute(f"CREATE DATABASE {_DATABASE}")
    quiet, size, measured = await measure(f"{server_url.rpartition('/')[0]}/{_DATABASE}", orders, rate)
    await administrator.close()
    return {
        "orders": orders,
        "orders_per_s": rate,
        "database_mb": size,
        "quiet": asdict(quiet),
        "revisions": [asdict(it) for it in measured],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--orders", type=int, default=10_000_000)
    parser.add_argument("--rate", type=int, default=200, help="orders a second while it migrates")
    given = parser.parse_args()
    with private_servers() as servers:
        found = asyncio.run(run(servers.database_url, given.orders, given.rate))
    machine = {"python": platform.python_version(), "cores": os.cpu_count()}
    RESULT.write_text(json.dumps({"machine": machine, **found}, indent=2) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
