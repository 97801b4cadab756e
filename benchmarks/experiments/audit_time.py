"""Measures how long `./headrace verify` takes, for ids in time order and for random ids.

python -m benchmarks.experiments.audit_time [--orders N]

On a private PostgreSQL with the stack's settings, in two databases of the same content: orders whose ids go with the
time, as they are minted and as UUIDv7 keys make them; and orders whose ids are anywhere, as other keys make them. They
are written by SQL, nine in ten PROCESSED, over 1,000 products. Each is audited three times, and the median counts;
before the first time the files are thrown out of the page cache. The result: benchmarks/results/audit_time.json.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncpg

from benchmarks.experiments.key_locality import cpu_s
from database.connection import Connection
from migrations.__main__ import migrate
from proof.audit_sql import SESSION, audit
from proof.offenders import Offender
from stack.supervisor.launch import private_servers

RESULT = Path(__file__).parents[1] / "results" / "audit_time.json"
RUNS = 3
LAG_S = 60.0
CHUNK_ORDERS = 500_000

# 32 hex digits: four orders a millisecond, then as random as md5 is, with the two marks of a UUID version 8; or md5.
IDS = {
    "by time": "lpad(to_hex(1767323045000 + i / 4), 12, '0')"
    " || overlay(overlay(substr(md5(i::text), 1, 20) PLACING '8' FROM 1) PLACING '8' FROM 5)",
    "anywhere": "md5(i::text)",
}
_DROP_INDEXES = """
    ALTER TABLE orders DROP CONSTRAINT orders_pkey;
    ALTER TABLE stock_ledger DROP CONSTRAINT stock_ledger_pkey;
    DROP INDEX orders_newest;
    DROP INDEX orders_with_product;
"""
_MAKE_INDEXES = """
    ALTER TABLE orders ADD PRIMARY KEY (id, line);
    ALTER TABLE stock_ledger ADD PRIMARY KEY (order_id);
    CREATE INDEX orders_newest ON orders (accepted_at) WHERE line = 0;
    CREATE INDEX orders_with_product ON orders (product_id, accepted_at);
"""
_PRODUCTS = """
    INSERT INTO products (id, name, price, qty) SELECT md5('product' || n)::uuid, 'a thing', 12.50, 0
    FROM generate_series(0, 999) n
"""
_ORDERS = """
    INSERT INTO orders (id, product_id, quantity, unit_price, total_price, accepted_at, persisted_at)
    SELECT ({id})::uuid, md5('product' || i % 1000)::uuid, 1 + i % 3, 12.50, 12.50 * (1 + i % 3),
           timestamptz '2026-01-02' + i * interval '250 us', timestamptz '2026-01-02' + i * interval '250 us'
    FROM generate_series($1::bigint, $2::bigint) i
"""
_LEDGER = """
    INSERT INTO stock_ledger (order_id, product_id, quantity, outcome, reason, decided_at)
    SELECT ({id})::uuid, md5('product' || i % 1000)::uuid, 1 + i % 3,
           CASE WHEN i % 10 = 0 THEN 'FAILED' ELSE 'PROCESSED' END, CASE WHEN i % 10 = 0 THEN 'out_of_stock' END,
           timestamptz '2026-01-02 00:00:01' + i * interval '250 us'
    FROM generate_series($1::bigint, $2::bigint) i
"""
_ADJUSTMENTS = """
    INSERT INTO stock_adjustments (product_id, delta, reason)
    SELECT product_id, sum(quantity) + 7, 'creation' FROM stock_ledger WHERE outcome = 'PROCESSED' GROUP BY product_id
"""
_THIS = "FROM pg_database WHERE datname = current_database()"


@dataclass(frozen=True)
class Measured:
    """Medians. `first_seconds`: of the first audit, which reads from the disk. `temporary_mb`: what sorts and hashes
    wrote there.
    """

    ids: str
    orders: int
    database_mb: int
    seconds: float
    first_seconds: float
    postgres_cpu_s: float
    temporary_mb: int


# ── I/O below


async def fill(connection: Connection, ids: str, orders: int) -> None:
    """Fill a database without faults. Creates indexes after the rows, which is several times faster."""
    await connection.execute(_DROP_INDEXES)
    await connection.execute(_PRODUCTS)
    for first in range(0, orders, CHUNK_ORDERS):
        last = min(first + CHUNK_ORDERS, orders) - 1
        for statement in (_ORDERS, _LEDGER):
            await connection.execute(statement.format(id=IDS[ids]), first, last)
    await connection.execute(_MAKE_INDEXES)
    await connection.execute(_ADJUSTMENTS)
    await connection.execute("UPDATE products SET qty = 7 WHERE id IN (SELECT product_id FROM stock_adjustments)")
    # What autovacuum will have done by the time that there are so many.
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("CHECKPOINT")


async def measure(database_url: str, ids: str, orders: int) -> Measured:
    connection = await asyncpg.connect(database_url)
    await fill(connection, ids, orders)
    size = await connection.fetchval("SELECT pg_database_size(current_database())")
    await _forget_files(connection)
    seconds, used_s, before = [], [], await _temporary_bytes(connection)
    for _ in range(RUNS):
        auditor = await asyncpg.connect(database_url, server_settings=SESSION)
        since = time.perf_counter()
        await audit_clean(auditor, orders)
        seconds.append(time.perf_counter() - since)
        used_s.append(cpu_s(auditor))
        await auditor.close()
    temporary = (await _temporary_bytes(connection) - before) / RUNS
    await connection.close()
    return Measured(
        ids,
        orders,
        round(size / 1e6),
        round(statistics.median(seconds), 1),
        round(seconds[0], 1),
        round(statistics.median(used_s), 1),
        round(temporary / 1e6),
    )


async def audit_clean(connection: Connection, orders: int) -> None:
    """Audit, and raise AssertionError if anything is wrong: then the time would mean nothing."""
    found: list[Offender] = []
    counts = await audit(connection, LAG_S, found.append)
    assert not found, found[:3]
    assert (counts.orders, counts.processed + counts.failed, counts.pending) == (orders, orders, 0)


async def _forget_files(connection: Connection) -> None:
    """Throw the tables out of the kernel's cache; what PostgreSQL itself holds (shared_buffers) stays."""
    directory = await connection.fetchval(f"SELECT current_setting('data_directory') || '/base/' || oid {_THIS}")
    for file in sorted(Path(directory).iterdir()):  # noqa: ASYNC240 - nobody waits for this loop
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


async def _temporary_bytes(connection: Connection) -> int:
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    return int(await connection.fetchval(f"SELECT temp_bytes {_THIS.replace('pg_database', 'pg_stat_database')}"))


async def run(server_url: str, orders: int) -> list[Measured]:
    results = []
    for number, ids in enumerate(IDS):
        administrator = await asyncpg.connect(server_url)
        await administrator.execute(f"CREATE DATABASE audit_time_{number}")
        url = f"{server_url.rpartition('/')[0]}/audit_time_{number}"
        await migrate(url)
        results.append(await measure(url, ids, orders))
        await administrator.execute(f"DROP DATABASE audit_time_{number}")
        await administrator.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--orders", type=int, default=10_000_000)
    orders = parser.parse_args().orders
    with private_servers() as servers:
        results = asyncio.run(run(servers.database_url, orders))
    machine = {"python": platform.python_version(), "cores": os.cpu_count()}
    RESULT.write_text(json.dumps({"machine": machine, "results": [asdict(it) for it in results]}, indent=2) + "\n")
    for it in results:
        print(asdict(it))


if __name__ == "__main__":
    main()
