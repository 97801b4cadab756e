"""Measures how long a page of GET /api/v1/orders takes in PostgreSQL, for each filter and many combinations.

python -m benchmarks.experiments.order_lists [--orders N]

On a private PostgreSQL with the stack's settings, filled by SQL. The client `shop` has four orders in five, `wholesale`
one in five, and `small` has a hundred. A tenth are for one product, none of which `wholesale` has ordered. Three in ten
have an id anywhere, as a key makes it. One in ten has a reference, one in a hundred failed, none of them of
`wholesale`. The newest 300 and twenty old ones are undecided. Each page is read as ingest_api reads it, from the newest
order on and from random moments on, all cases in turn. The result: benchmarks/results/order_lists.json.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from database.connection import Connection
from database.sessions import make_pool
from ingest_api.reads.order_walks import Stretch, Wanted, below
from ingest_api.reads.stored_orders import LIST_SETTINGS, ListPage, ReadLimits, StoredOrders
from migrations.__main__ import migrate
from stack.supervisor.launch import private_servers
from web.requests.paging import DEFAULT_LIMIT, MAX_LIMIT, Cursor, Page

RESULT = Path(__file__).parents[1] / "results" / "order_lists.json"
ROUNDS = 60
CHUNK_ORDERS = 250_000
BEGAN = datetime(2026, 1, 2, tzinfo=UTC)
BETWEEN = timedelta(milliseconds=250)
_TIMEOUT_S = 60.0
_LIMITS = ReadLimits(order_connections=1, list_connections=1, max_orders=1_000, max_lists=10, timeout_s=_TIMEOUT_S)

_ID = """(CASE WHEN i % 10 < 3 THEN md5(i::text) ELSE lpad(to_hex(1767312000000 + 250 * i), 12, '0')
    || overlay(overlay(substr(md5(i::text), 1, 20) PLACING '8' FROM 1) PLACING '8' FROM 5) END)::uuid"""
_PRODUCT = "md5('product' || CASE WHEN i % 10 = 0 THEN 0 ELSE 1 + hashint8(i) & 511 END)::uuid"
_ORDERS = f"""
    INSERT INTO orders (id, product_id, quantity, unit_price, total_price, accepted_at, client, reference)
    SELECT {_ID}, {_PRODUCT}, 1, 12.50, 12.50,
           $3::timestamptz + i * $4::interval + (hashint8(i) & 2047) * interval '1 ms',
           CASE WHEN i % ($5 / 100) = 7 THEN 'small' WHEN i % 5 = 4 THEN 'wholesale' ELSE 'shop' END,
           CASE WHEN i % 1000 = 1 THEN 'monthly' WHEN i % 10 = 1 THEN 'R-' || i END
    FROM generate_series($1::bigint, $2::bigint) i
"""
_LEDGER = f"""
    INSERT INTO stock_ledger (order_id, product_id, quantity, outcome, reason)
    SELECT {_ID}, {_PRODUCT}, 1,
           CASE WHEN i % 100 = 3 THEN 'FAILED' ELSE 'PROCESSED' END, CASE WHEN i % 100 = 3 THEN 'out_of_stock' END
    FROM generate_series($1::bigint, $2::bigint) i WHERE i <= $3::bigint - 300 AND i % ($3::bigint / 20) <> 11
"""


@dataclass(frozen=True)
class Case:
    name: str
    wanted: Wanted
    limit: int = DEFAULT_LIMIT
    hours: float | None = None
    """From a random moment on, no further than this; None: to the oldest."""


@dataclass(frozen=True)
class Measured:
    """Milliseconds of one page: until it is there, and of PostgreSQL's CPU."""

    case: str
    newest_p50: float
    newest_p95: float
    newest_cpu: float
    anywhere_p50: float
    anywhere_p95: float
    anywhere_cpu: float
    orders: int
    """On the newest page."""
    empty: int
    """Pages of those from anywhere that held no order and were not the last."""


class Pages:
    """What the pages of one case took."""

    def __init__(self) -> None:
        self._ms: list[float] = []
        self._cpu_ms: list[float] = []

    def took(self, ms: float, cpu_ms: float) -> None:
        self._ms.append(ms)
        self._cpu_ms.append(cpu_ms)

    def figures(self) -> tuple[float, float, float]:
        """The median, the 95th percentile, and the mean of the CPU."""
        p95, mean = statistics.quantiles(self._ms, n=20)[-1], statistics.mean(self._cpu_ms)
        return round(statistics.median(self._ms), 1), round(p95, 1), round(mean, 1)


def cases(hot: str, cold: str, orders: int) -> list[Case]:
    reference = f"R-{orders // 20 * 10 + 11}"
    filters = [
        {},
        {"owner": "shop"},
        {"owner": "small"},
        {"product": hot},
        {"product": cold},
        {"owner": "shop", "product": hot},
        {"owner": "small", "product": hot},
        {"owner": "wholesale", "product": hot},
        {"owner": "wholesale", "product": cold},
        {"reference": reference},
        {"owner": "shop", "reference": reference},
        {"owner": "wholesale", "reference": reference},
        {"reference": "monthly"},
        {"owner": "wholesale", "reference": "monthly"},
        {"owner": "shop", "reference": "monthly", "product": cold},
        *({"status": it} for it in ("PENDING", "PROCESSED", "FAILED")),
        *({"status": it, "owner": "wholesale"} for it in ("PENDING", "PROCESSED", "FAILED")),
        *({"status": it, "owner": "small"} for it in ("PENDING", "PROCESSED", "FAILED")),
        *({"status": it, "product": hot} for it in ("PENDING", "PROCESSED", "FAILED")),
        *({"status": it, "owner": "wholesale", "product": cold} for it in ("PENDING", "FAILED")),
        {"status": "FAILED", "reference": "monthly"},
        {"status": "PENDING", "owner": "shop", "reference": "monthly", "product": cold},
    ]
    named = {hot: "hot", cold: "cold", reference: "one"}
    found = [Case(" ".join(named.get(it, it) for it in some.values()) or "all", Wanted(**some)) for some in filters]
    return [
        *found,
        Case("all, 500 orders", Wanted(), MAX_LIMIT),
        Case("PROCESSED, 500 orders", Wanted(status="PROCESSED"), MAX_LIMIT),
        Case("PENDING, of an hour", Wanted(status="PENDING"), hours=1),
        Case("wholesale hot, of an hour", Wanted("wholesale", hot), hours=1),
    ]


# ── I/O below


async def fill(connection: Connection, orders: int) -> None:
    for first in range(1, orders + 1, CHUNK_ORDERS):
        last = min(orders, first + CHUNK_ORDERS - 1)
        await connection.execute(_ORDERS, first, last, BEGAN, BETWEEN, orders)
        await connection.execute(_LEDGER, first, last, orders)
    await connection.execute("VACUUM (FREEZE, ANALYZE)")
    await connection.execute("CHECKPOINT")


async def measure(url: str, some: Sequence[Case], orders: int) -> list[Measured]:
    """All cases in turn, ROUNDS times, so that a disturbance of the machine meets them all alike."""
    newest, anywhere = {it.name: Pages() for it in some}, {it.name: Pages() for it in some}
    held, empty = dict.fromkeys(newest, 0), dict.fromkeys(newest, 0)
    first = Page.read({}, []).before
    async with make_pool(url, "order_lists", 1, _TIMEOUT_S, LIST_SETTINGS) as pool:
        async with pool.acquire() as connection:
            server = connection.get_server_pid()
        stored = StoredOrders(pool, pool, _LIMITS)
        for _ in range(ROUNDS):
            at = below(BEGAN + random.random() * orders * BETWEEN)
            for case in some:
                held[case.name] = len((await _read(stored, case, first, server, newest[case.name])).rows)
                found = await _read(stored, case, at, server, anywhere[case.name])
                empty[case.name] += not found.rows and found.next is not None
    return [
        Measured(name, *newest[name].figures(), *anywhere[name].figures(), held[name], empty[name]) for name in newest
    ]


async def _read(stored: StoredOrders, case: Case, before: Cursor, server: int, pages: Pages) -> ListPage:
    since = None if case.hours is None else before.at - timedelta(hours=case.hours)
    used_s, began = _cpu_s(server), time.perf_counter()
    found = await stored.page(case.wanted, Stretch(before, since), Page(before, case.limit), "")
    pages.took(1_000 * (time.perf_counter() - began), 1_000 * (_cpu_s(server) - used_s))
    return found


def _cpu_s(server: int) -> float:
    """To the nanosecond, where `stat` counts hundredths of a second."""
    return int(Path(f"/proc/{server}/schedstat").read_text().split()[0]) / 1e9


async def run(server_url: str, orders: int) -> list[Measured]:
    administrator = await asyncpg.connect(server_url)
    await administrator.execute("CREATE DATABASE order_lists")
    await administrator.close()
    url = f"{server_url.rpartition('/')[0]}/order_lists"
    await migrate(url)
    connection = await asyncpg.connect(url)
    await fill(connection, orders)
    hot, cold = (
        str(it) for it in await connection.fetchrow("SELECT md5('product0')::uuid, md5('product7')::uuid") or ()
    )
    await connection.close()
    return await measure(url, cases(hot, cold, orders), orders)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--orders", type=int, default=10_000_000)
    orders = parser.parse_args().orders
    with private_servers() as servers:
        results = asyncio.run(run(servers.database_url, orders))
    machine = {"python": platform.python_version(), "cores": os.cpu_count()}
    content = {"machine": machine, "orders": orders, "results": [asdict(it) for it in results]}
    RESULT.write_text(json.dumps(content, indent=2) + "\n")
    names = [it.name for it in fields(Measured)]
    print(" ".join(f"{name:>12}" for name in names))
    for it in results:
        print(" ".join(f"{value:>12}" for value in astuple(it)))


if __name__ == "__main__":
    main()
