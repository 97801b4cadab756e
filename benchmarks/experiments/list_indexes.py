"""Measures what the indexes that lists are read from cost an order, beside those that were there before and others.

python -m benchmarks.experiments.list_indexes [--rows N] [--batches N]

On a private PostgreSQL with the stack's settings: a copy of the table `orders` for each set of indexes, filled with N
rows while it has them. Then persist_worker's COPY of batches of 500 orders, the same batch into each table, in random
order. Orders are of 1,000 products; with a client, of ten clients. Prints a table. The result:
benchmarks/results/list_indexes.json.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import secrets
import statistics
import uuid
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import asyncpg
import msgspec

from database.connection import Connection
from database.copy_text import copy_rows
from database.sessions import session_settings
from migrations.__main__ import migrate
from pipeline.contract.order_ids import OrderIds
from pipeline.contract.orders import COLUMNS, Order
from stack.supervisor.launch import private_servers

RESULT = Path(__file__).parents[1] / "results" / "list_indexes.json"
BATCH_ORDERS = 500

INDEXES = {
    "product, time ↓, id ↓": "(product_id, accepted_at DESC, id DESC)",
    "product, time": "(product_id, accepted_at)",
    "product, client, time ↓, id ↓": "(product_id, client, accepted_at DESC, id DESC) WHERE client IS NOT NULL",
    "time": "(accepted_at) WHERE line = 0",
    "time, id": "(accepted_at, id) WHERE line = 0",
    "time ↓, id ↓": "(accepted_at DESC, id DESC) WHERE line = 0",
    "time, BRIN": "USING brin (accepted_at)",
    "client, time": "(client, accepted_at) WHERE client IS NOT NULL AND line = 0",
    "client, time, id": "(client, accepted_at, id) WHERE client IS NOT NULL AND line = 0",
}
_BEFORE = "product, time ↓, id ↓"
# Of orders without a client, then of those with one.
OPEN = (
    (_BEFORE,),
    (_BEFORE, "time"),
    (_BEFORE, "time, id"),
    (_BEFORE, "time ↓, id ↓"),
    (_BEFORE, "time, BRIN"),
    ("product, time",),
    ("product, time", "time"),
)
KEYED = (
    (_BEFORE, "product, client, time ↓, id ↓"),
    (_BEFORE, "time, id", "client, time, id"),
    (_BEFORE, "time", "client, time"),
    ("product, time", "time", "client, time"),
)
_FILL = """
    INSERT INTO {table} (id, product_id, quantity, unit_price, total_price, accepted_at, client)
    SELECT (lpad(to_hex(1767323045000 + i / 4), 12, '0')
            || overlay(overlay(substr(md5(i::text), 1, 20) PLACING '8' FROM 1) PLACING '8' FROM 5))::uuid,
           ($2::uuid[])[1 + i % 1000], 1, 12.50, 12.50, timestamptz '2026-01-02' + i * interval '250 us',
           CASE WHEN $3 THEN 'client-' || i % 10 END
    FROM generate_series(1, $1::integer) i
"""


@dataclass(frozen=True)
class Measured:
    """For one order, besides the primary key."""

    client: bool
    indexes: str
    cpu_us: float
    """The median of the batches."""
    wal_bytes: int
    index_bytes: int


def batch(ids: OrderIds, products: list[str]) -> list[Order]:
    now, price = datetime.now(UTC), Decimal("12.50")
    orders = [
        Order(ids.mint(), random.choice(products), 1, price, price, now + timedelta(microseconds=50 * it))
        for it in range(BATCH_ORDERS)
    ]
    return sorted(orders, key=lambda it: it.id)


# ── I/O below


class Table:
    """A copy of `orders` with some indexes."""

    def __init__(self, connection: Connection, name: str, indexes: tuple[str, ...], *, keyed: bool) -> None:
        self._connection, self._name, self._indexes, self._keyed = connection, name, indexes, keyed
        self._cpu_us: list[float] = []
        self._wal = 0

    async def fill(self, rows: int, products: list[str]) -> None:
        await self._connection.execute(f"CREATE TABLE {self._name} (LIKE orders INCLUDING DEFAULTS, PRIMARY KEY (id))")
        for index in self._indexes:
            await self._connection.execute(f"CREATE INDEX ON {self._name} {INDEXES[index]}")
        await self._connection.execute(_FILL.format(table=self._name), rows, products, self._keyed)
        self._bytes_before = await self._index_bytes()

    async def take(self, orders: list[Order]) -> None:
        if self._keyed:
            orders = [msgspec.structs.replace(it, client=f"client-{random.randrange(10)}") for it in orders]
        server, wal = self._connection.get_server_pid(), await self._wal_bytes()
        used_s = _cpu_s(server)
        await copy_rows(self._connection, self._name, COLUMNS, orders)
        self._cpu_us.append((_cpu_s(server) - used_s) / len(orders) * 1e6)
        self._wal += await self._wal_bytes() - wal

    async def measured(self) -> Measured:
        rows = len(self._cpu_us) * BATCH_ORDERS
        grown = (await self._index_bytes() - self._bytes_before) / rows
        cpu_us = round(statistics.median(self._cpu_us), 2)
        return Measured(self._keyed, " + ".join(self._indexes), cpu_us, round(self._wal / rows), round(grown))

    async def _index_bytes(self) -> int:
        size = f"SELECT pg_indexes_size('{self._name}') - pg_relation_size('{self._name}_pkey')"
        return int(await self._connection.fetchval(size))

    async def _wal_bytes(self) -> int:
        return int(await self._connection.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))


def _cpu_s(server: int) -> float:
    """User and system time of a server process, to the nanosecond."""
    return int(Path(f"/proc/{server}/schedstat").read_text().split()[0]) / 1e9


async def run(server_url: str, rows: int, batches: int) -> list[Measured]:
    administrator = await asyncpg.connect(server_url)
    await administrator.execute("CREATE DATABASE list_indexes")
    await administrator.close()
    url = f"{server_url.rpartition('/')[0]}/list_indexes"
    await migrate(url)
    ids, products = OrderIds(secrets.token_hex(32)), [str(uuid.uuid4()) for _ in range(1_000)]
    tables: list[Table] = []
    for keyed, sets in ((False, OPEN), (True, KEYED)):
        for indexes in sets:
            connection = await asyncpg.connect(url, server_settings=session_settings("list_indexes"))
            tables.append(Table(connection, f"orders_{len(tables)}", indexes, keyed=keyed))
            await tables[-1].fill(rows, products)
    for _ in range(batches):
        orders = batch(ids, products)
        for table in random.sample(tables, len(tables)):
            await table.take(orders)
    return [await it.measured() for it in tables]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--batches", type=int, default=400)
    given = parser.parse_args()
    with private_servers() as servers:
        results = asyncio.run(run(servers.database_url, given.rows, given.batches))
    machine: Mapping[str, object] = {"python": platform.python_version(), "cores": os.cpu_count()}
    content = {"machine": machine, "rows": given.rows, "results": [asdict(it) for it in results]}
    RESULT.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    print(*(it.name for it in fields(Measured)), sep="\t")
    for it in results:
        print(*astuple(it), sep="\t")


if __name__ == "__main__":
    main()
