"""python -m benchmarks.experiments.scale [--orders N] [--rounds N]: what 1, 2 and 4 of each worker do with a backlog.

For orders of one product and of many: they wait in the first queue, and so many persist_workers store them; then they
wait in the second queue, and so many product_consumers decide them. The other stage's worker is one, so that a stage
finds the same whatever its own number is; and no stage shares the machine with the other. A stage is measured from when
all its workers are ready. The rounds are interleaved. Afterwards every order is looked for by its id, and the stock of
every product is added up. The result: benchmarks/results/scale.json, and the table in docs/scaling.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.contenders.contender import Part
from benchmarks.contenders.headrace import CONSUMER, HEADRACE, PERSIST
from benchmarks.experiments.made_orders import fill_queue
from benchmarks.processes import shares, us_per_order
from benchmarks.report.scaling import Scale, Stage, save
from benchmarks.run.accounting import audit
from benchmarks.run.deployment import Deployment, deployed
from benchmarks.run.machine import cpu_model
from benchmarks.run.servers import Servers, make_template, private_servers, products_of
from stack.home.directory import Home

# persist_workers and product_consumers.
COUNTS = ((1, 1), (2, 1), (4, 1), (1, 2), (1, 4))
PRODUCTS = {"one product": 1, "1,000 products": 1_000}
# Small enough that what one worker holds, 256 of them, leaves most to the others.
_GROUP, _IN_FLIGHT = 100, 16
# As above, for messages of some thousand orders: by its own settings the first one would hold a fifth of all.
_SHARING = replace(
    CONSUMER, environment={"PRODUCT_CONSUMER_BATCH_MAX_DELIVERIES": "4", "PRODUCT_CONSUMER_PREFETCH": "8"}
)
_LOOK_EVERY_S = 0.25
_PATIENCE_S = 300
# How many are through, and the seconds from the last batch's commit to now.
_QUESTIONS = {
    PERSIST.name: "SELECT count(*), extract(epoch FROM statement_timestamp() - max(persisted_at))::float8 FROM orders",
    CONSUMER.name: "SELECT count(*), extract(epoch FROM statement_timestamp() - max(decided_at))::float8"
    " FROM stock_ledger",
}


async def measure(servers: Servers, workers: tuple[int, int], products: str, orders: int) -> list[Stage]:
    """Both stages, one after the other; those whose other stage has one worker. Raises AssertionError when an order is
    lost, twice, or oversold, and when most were through before all workers were ready.
    """
    async with deployed(HEADRACE, servers, start=False) as deployment:
        chosen = await products_of(deployment.connection, PRODUCTS[products])
        ids = await fill_queue(deployment.environment["AMQP_URL"], chosen, orders, _GROUP, _IN_FLIGHT)
        deployment.answers.add(ids, 0)
        persisters, consumers = workers
        stored = await _through(deployment, PERSIST, persisters, products, orders)
        decided = await _through(deployment, _SHARING, consumers, products, orders)
        account = await audit(deployment.connection, deployment.answers)
        assert account.void is None, account.void
        return [*([stored] if consumers == 1 else []), *([decided] if persisters == 1 else [])]


async def _through(deployment: Deployment, part: Part, workers: int, products: str, orders: int) -> Stage:
    await deployment.start((part,) * workers)
    since, before = time.monotonic(), deployment.parts.usage()
    begun, _ = await _passed(deployment, part)
    assert begun < orders / 2, f"{begun:,} of {orders:,} were through before all workers were ready: give it more"
    seconds = await _until_through(deployment, part, orders) - since
    after = deployment.parts.usage()
    busy, steal = shares(before.machine, after.machine)
    return Stage(
        stage=part.name,
        workers=workers,
        products=products,
        orders_per_s=round((orders - begun) / seconds),
        cpu_us_per_order=us_per_order(before, after, orders - begun),
        busy_share=round(busy, 3),
        steal_share=round(steal, 3),
    )


async def _until_through(deployment: Deployment, part: Part, orders: int) -> float:
    """Wait until all orders are through. Returns the monotonic time of the last batch's commit."""
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            deployment.check()
            passed, ago_s = await _passed(deployment, part)
            if passed >= orders:
                return time.monotonic() - ago_s
            await asyncio.sleep(_LOOK_EVERY_S)


async def _passed(deployment: Deployment, part: Part) -> tuple[int, float]:
    """How many are through, and the seconds since the last batch; 0 if there was none."""
    row = await deployment.connection.fetchrow(_QUESTIONS[part.name])
    assert row is not None
    return row[0], row[1] or 0.0


def rounds(count: int) -> Iterator[tuple[tuple[int, int], str]]:
    return ((workers, products) for _ in range(count) for products in PRODUCTS for workers in COUNTS)


async def run(servers: Servers, orders: int, count: int) -> list[Stage]:
    await make_template(servers)
    stages: list[Stage] = []
    for workers, products in rounds(count):
        since = time.monotonic()
        found = await measure(servers, workers, products, orders)
        stages += found
        told = ", ".join(f"{it.stage} {it.orders_per_s:,}/s" for it in found)
        persisters, consumers = workers
        print(f"{persisters} and {consumers}, {products}: {told} ({time.monotonic() - since:.0f} s)", flush=True)
    return stages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--orders", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    machine = (
        f"{cpu_model(Path('/proc/cpuinfo').read_text())}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    with private_servers(Home.current().path / f"test-scale-{os.getpid()}") as servers:
        stages = asyncio.run(run(servers, given.orders, given.rounds))
    save(Scale(datetime.now(UTC).isoformat(timespec="seconds"), machine, given.orders, stages))


if __name__ == "__main__":
    main()
