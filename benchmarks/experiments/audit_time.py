"""Measures how long `./headrace verify` takes: for ids in time order, for random ids, and with baskets.

python -m benchmarks.experiments.audit_time [--orders N] [NAME ...]

On a private PostgreSQL with the stack's settings, in databases of as many orders: ids that go with the time, as they
are minted and as UUIDv7 keys make them; ids that are anywhere, as other keys make them; and ids by time, with three
lines in every third order. All is written by SQL, nine in ten orders PROCESSED, over 1,000 products, with an event for
each verdict. Each database is audited three times, and the median counts. Before the first time the files are thrown
out of the page cache. The result: benchmarks/results/audit_time.json.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

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
_BY_TIME = (
    "lpad(to_hex(1767323045000 + i / 4), 12, '0')"
    " || overlay(overlay(substr(md5(i::text), 1, 20) PLACING '8' FROM 1) PLACING '8' FROM 5)"
)


class Content(NamedTuple):
    """What a database is filled with."""

    id: str
    """SQL: the 32 hex digits of order i."""
    is_basket: str
    """SQL: whether order i has three lines."""


CONTENTS = {
    "by time": Content(_BY_TIME, "false"),
    "anywhere": Content("md5(i::text)", "false"),
    "by time and a third baskets": Content(_BY_TIME, "i % 3 = 0"),
}
# Triggers would look for orders without an index. What they write is written below.
_PREPARE = """
    ALTER TABLE stock_ledger DISABLE TRIGGER USER;
    ALTER TABLE orders DROP CONSTRAINT orders_pkey;
    ALTER TABLE stock_ledger DROP CONSTRAINT stock_ledger_pkey;
    DROP INDEX orders_newest;
    DROP INDEX orders_with_product;
    UPDATE event_log SET began_at = '2026-01-01';
    INSERT INTO products (id, name, price, qty) SELECT md5('product' || n)::uuid, 'a thing', 12.50, 0
    FROM generate_series(0, 999) n;
"""
_FINISH = """
    ALTER TABLE orders ADD PRIMARY KEY (id, line);
    ALTER TABLE stock_ledger ADD PRIMARY KEY (order_id);
    CREATE INDEX orders_newest ON orders (accepted_at) WHERE line = 0;
    CREATE INDEX orders_with_product ON orders (product_id, accepted_at);
    ALTER TABLE stock_ledger ENABLE TRIGGER USER;
    UPDATE event_log SET last_offset = (SELECT coalesce(sum(size), 0) FROM event_batches);
    INSERT INTO stock_adjustments (product_id, delta, reason)
    SELECT o.product_id, sum(o.quantity) + 7, 'creation' FROM orders o JOIN stock_ledger l ON l.order_id = o.id
    WHERE outcome = 'PROCESSED' GROUP BY o.product_id;
    UPDATE products SET qty = 7 WHERE id IN (SELECT product_id FROM stock_adjustments);
"""
_PRODUCT = "md5('product' || (i + 333 * line) % 1000)::uuid"
_ORDERS = f"""
    INSERT INTO orders (id, line, line_count, product_id, quantity, unit_price, total_price, accepted_at, persisted_at)
    SELECT ({{id}})::uuid, line, CASE WHEN {{is_basket}} THEN 3 END, {_PRODUCT}, 1 + i % 3, 12.50, 12.50 * (1 + i % 3),
           timestamptz '2026-01-02' + i * interval '250 us', timestamptz '2026-01-02' + i * interval '250 us'
    FROM generate_series($1::bigint, $2::bigint) i, generate_series(0, CASE WHEN {{is_basket}} THEN 2 ELSE 0 END) line
"""
_LEDGER = f"""
    INSERT INTO stock_ledger (order_id, line_count, product_id, quantity, outcome, reason, decided_at)
    SELECT ({{id}})::uuid, CASE WHEN {{is_basket}} THEN 3 END,
           CASE WHEN NOT {{is_basket}} THEN {_PRODUCT} END, CASE WHEN NOT {{is_basket}} THEN 1 + i % 3 END,
           CASE WHEN i % 10 = 0 THEN 'FAILED' ELSE 'PROCESSED' END, CASE WHEN i % 10 = 0 THEN 'out_of_stock' END,
           timestamptz '2026-01-02 00:00:01' + i * interval '250 us'
    FROM generate_series($1::bigint, $2::bigint) i, (VALUES (0)) AS first (line)
"""
# In batches of 250, as product_consumer decides under load.
_EVENTS = """
    INSERT INTO event_batches (orders, size, first_offset, numbered_at)
    SELECT array_agg(({id})::uuid ORDER BY i), count(*), min(i) + 1, timestamptz '2026-01-02'
    FROM generate_series($1::bigint, $2::bigint) i GROUP BY i / 250
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


async def fill(connection: Connection, content: Content, orders: int) -> None:
    """Fill a database without faults. Creates indexes after the rows, which is several times faster."""
    await connection.execute(_PREPARE)
    for first in range(0, orders, CHUNK_ORDERS):
        last = min(first + CHUNK_ORDERS, orders) - 1
        for statement in (_ORDERS, _LEDGER, _EVENTS):
            await connection.execute(statement.format(**content._asdict()), first, last)
    await connection.execute(_FINISH)
    # What autovacuum will have done by the time that there are so many.
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("CHECKPOINT")


async def measure(database_url: str, ids: str, orders: int) -> Measured:
    connection = await asyncpg.connect(database_url)
    await fill(connection, CONTENTS[ids], orders)
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


async def run(server_url: str, orders: int, names: Iterable[str]) -> list[Measured]:
    results = []
    for number, ids in enumerate(names):
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
    parser.add_argument("names", nargs="*", choices=[*CONTENTS, []], help="only these; the result file is not written")
    parser.add_argument("--orders", type=int, default=10_000_000)
    given = parser.parse_args()
    with private_servers() as servers:
        results = asyncio.run(run(servers.database_url, given.orders, given.names or CONTENTS))
    machine = {"python": platform.python_version(), "cores": os.cpu_count()}
    if not given.names:
        RESULT.write_text(json.dumps({"machine": machine, "results": [asdict(it) for it in results]}, indent=2) + "\n")
    for it in results:
        print(asdict(it))


if __name__ == "__main__":
    main()
