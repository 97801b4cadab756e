"""Experiments with existing data: stored rows, a backlog in the queue, and a long run (soak)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec

from benchmarks.contenders.headrace import CONSUMER, HEADRACE, PERSIST
from benchmarks.experiments.made_orders import fill_queue
from benchmarks.experiments.steps import AROUND_S, BESIDE_LOAD_S
from benchmarks.generators.generators import Load, Sent, Used
from benchmarks.processes import slope_per_h
from benchmarks.report.results import Percentiles
from benchmarks.run.accounting import Connection, audit, times
from benchmarks.run.deployment import Deployment, deployed
from benchmarks.run.measure import Cost, Place, measure, settle_down, to_run
from benchmarks.run.plan import Report, Scale, Step
from benchmarks.run.servers import Servers, products_of

WORKERS = (1, 2, 4)
QUEUED_GROUP = 500
QUEUED_IN_FLIGHT = 4
SOAK_RATE = 1_000
SAMPLE_S = 5.0
_PRODUCTS = 1_000
# For the plan alone: what a small machine manages.
_FILLED_ROWS_PER_S = 30_000
_QUEUED_PER_S = 60_000
_DRAINED_PER_S = 15_000

# Ids that grow, as minted ones do, and lie before all of those; dates that say what the rows are. They took nothing
# from any stock, so the books of the products stay as they are.
_FILL_ORDERS = """
    INSERT INTO orders (id, product_id, quantity, unit_price, total_price, accepted_at, persisted_at)
    SELECT (lpad(to_hex(n), 12, '0') || '80008' || substr(md5(n::text), 1, 15))::uuid,
           ($3::uuid[])[1 + n % cardinality($3::uuid[])], 1, 1, 1,
           '2000-01-01'::timestamptz + n * interval '1 ms', '2000-01-01'
    FROM generate_series($1::int, $2::int) AS n
"""
_FILL_LEDGER = """
    INSERT INTO stock_ledger (order_id, product_id, quantity, outcome, reason, decided_at)
    SELECT (lpad(to_hex(n), 12, '0') || '80008' || substr(md5(n::text), 1, 15))::uuid,
           ($3::uuid[])[1 + n % cardinality($3::uuid[])], 1, 'FAILED', 'stored before', '2000-01-01'
    FROM generate_series($1::int, $2::int) AS n
"""
_PERSISTED = """
    SELECT extract(epoch FROM min(persisted_at))::float8, extract(epoch FROM max(persisted_at))::float8 FROM orders
"""


def growth(scale: Scale) -> list[Step]:
    """The same load on tables of different sizes."""
    load = Load(scale.other_s, 256)

    async def run(servers: Servers, report: Report) -> None:
        stored = 0
        async with deployed(HEADRACE, servers) as deployment:
            for rows in scale.grown:
                await fill(deployment.connection, stored, rows)
                stored = rows
                for pair in range(1, scale.grown_runs + 1):
                    # The first one would find everything cold, and the empty tables look slow beside the grown ones.
                    place, warm_up_s = Place("growth", pair, f"{rows:,} rows stored"), 0 if pair > 1 else load.seconds
                    report(await measure(deployment, place, load, warm_up_s=warm_up_s))

    each_s = load.seconds + scale.grown_runs * (scale.other_s + BESIDE_LOAD_S)
    seconds = AROUND_S + len(scale.grown) * each_s + max(scale.grown) / _FILLED_ROWS_PER_S
    return [Step(Place("growth", 1), HEADRACE, load.name, seconds, run)]


def backlog(scale: Scale) -> list[Step]:
    """Orders that wait in the queue, drained by 1, 2 and 4 persist_workers and one product_consumer."""
    return [_drained(scale.backlog, workers) for workers in WORKERS]


def _drained(queued: int, workers: int) -> Step:
    load = f"{queued:,} queued"
    place = Place("backlog", 1, "1 persist_worker" if workers == 1 else f"{workers} persist_workers")
    contender = replace(HEADRACE, parts=(*[PERSIST] * workers, CONSUMER))

    async def run(servers: Servers, report: Report) -> None:
        async with deployed(contender, servers, start=False) as deployment:
            products = await products_of(deployment.connection, _PRODUCTS)
            began_s, amqp_url = time.time(), deployment.environment["AMQP_URL"]
            ids = await fill_queue(amqp_url, products, queued, QUEUED_GROUP, QUEUED_IN_FLIGHT)
            deployment.answers.add(ids, 0)
            before = deployment.parts.usage()
            await deployment.start(contender.parts)
            after = await settle_down(deployment, ids)
            cost = Cost(before, after, after, deployment.parts.peak_rss_mb())
            account = await audit(deployment.connection, deployment.answers)
            sent = await _as_sent(deployment.connection, ids)
            found = await times(deployment.connection, began_s, sent.last_s)
            report(to_run(place, contender, load, sent, account, found, cost))

    seconds = AROUND_S + queued / _QUEUED_PER_S + queued / _DRAINED_PER_S + BESIDE_LOAD_S
    return Step(place, contender, load, seconds, run)


async def _as_sent(connection: Connection, ids: list[str]) -> Sent:
    """Stored instead of sent: from the first row to the last."""
    row = await connection.fetchrow(_PERSISTED)
    assert row is not None
    first_s, last_s = row[0] or 0.0, row[1] or 1.0
    return Sent("none", first_s, last_s, 0, 0, Percentiles(), ids, Used(), 1)


def soak(scale: Scale) -> list[Step]:
    """The same rate for a long time: memory must not grow."""
    load = Load(scale.soak_s, rate=SOAK_RATE)
    place = Place("soak", 1)

    async def run(servers: Servers, report: Report) -> None:
        async with deployed(HEADRACE, servers) as deployment:
            async with _sampled(deployment) as samples:
                done = await measure(deployment, place, load, warm_up_s=scale.warm_up_s)
            report(msgspec.structs.replace(done, rss_slope_mb_per_h=slopes(samples)))

    return [Step(place, HEADRACE, load.name, AROUND_S + scale.warm_up_s + scale.soak_s + BESIDE_LOAD_S, run)]


def slopes(samples: list[tuple[float, dict[str, float]]]) -> dict[str, float]:
    """MB an hour by part, of the second half: what is filled at the start is no leak."""
    later = samples[len(samples) // 2 :]
    parts = later[0][1] if later else {}
    return {part: round(slope_per_h((at, rss[part]) for at, rss in later), 2) for part in parts}


# ── I/O below


@contextlib.asynccontextmanager
async def _sampled(deployment: Deployment) -> AsyncIterator[list[tuple[float, dict[str, float]]]]:
    """The memory of all parts, every few seconds while the block runs."""
    samples: list[tuple[float, dict[str, float]]] = []

    async def sample() -> None:
        while True:
            samples.append((time.monotonic(), deployment.parts.rss_mb()))
            await asyncio.sleep(SAMPLE_S)

    sampling = asyncio.create_task(sample())
    try:
        yield samples
    finally:
        sampling.cancel()


async def fill(connection: Connection, stored: int, rows: int) -> None:
    """Bring both tables from `stored` to `rows` rows, and leave the server nothing to tidy up during the load."""
    if rows > stored:
        products = await products_of(connection, _PRODUCTS)
        for statement in (_FILL_ORDERS, _FILL_LEDGER):
            await connection.execute(statement, stored + 1, rows, products)
        await connection.execute("VACUUM (FREEZE, ANALYZE) orders, stock_ledger")
    await connection.execute("CHECKPOINT")
