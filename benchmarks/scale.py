"""python -m benchmarks.scale [--orders N] [--rounds N]: what 1, 2 and 4 of each worker do with a backlog.

For each number of workers, with orders for one product and for many: the orders wait in the first queue; so many
persist_workers store them; they wait in the second queue then, and so many product_consumers decide them. Each stage
has the machine for itself, so what it takes is its own; the rounds are interleaved. Afterwards every order is looked
for by its id, and the stock of every product is added up. The result: benchmarks/results/scale.json, and the tables in
docs/scaling.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.accounting import audit
from benchmarks.contender import Part
from benchmarks.deployment import Deployment, deployed
from benchmarks.headrace import CONSUMER, HEADRACE, PERSIST
from benchmarks.machine import cpu_model
from benchmarks.made_orders import fill_queue
from benchmarks.processes import shares, us_per_order
from benchmarks.scaling import Scale, Stage, save
from benchmarks.servers import Servers, make_template, private_servers, products_of
from stack.home import Home

COUNTS = (1, 2, 4)
PRODUCTS = {"one product": 1, "1,000 products": 1_000}
_GROUP, _IN_FLIGHT = 500, 4
_LOOK_EVERY_S = 0.25
_PATIENCE_S = 300
# How many are through, and the seconds from the first batch's commit to the last's.
_QUESTIONS = {
    PERSIST.name: "SELECT count(*), extract(epoch FROM max(persisted_at) - min(persisted_at))::float8 FROM orders",
    CONSUMER.name: "SELECT count(*), extract(epoch FROM max(decided_at) - min(decided_at))::float8 FROM stock_ledger",
}


async def measure(servers: Servers, workers: int, products: str, orders: int) -> list[Stage]:
    """Both stages, one after the other. Raises AssertionError when an order is lost, twice, or oversold."""
    async with deployed(HEADRACE, servers, start=False) as deployment:
        chosen = await products_of(deployment.connection, PRODUCTS[products])
        ids = await fill_queue(deployment.environment["AMQP_URL"], chosen, orders, _GROUP, _IN_FLIGHT)
        deployment.answers.add(ids, 0)
        stages = [await _through(deployment, part, workers, products, orders) for part in (PERSIST, CONSUMER)]
        account = await audit(deployment.connection, deployment.answers)
        assert account.void is None, account.void
        return stages


async def _through(deployment: Deployment, part: Part, workers: int, products: str, orders: int) -> Stage:
    before = deployment.parts.usage()
    await deployment.start((part,) * workers)
    seconds = await _until_through(deployment, _QUESTIONS[part.name], orders)
    after = deployment.parts.usage()
    busy, steal = shares(before.machine, after.machine)
    return Stage(
        stage=part.name,
        workers=workers,
        products=products,
        orders_per_s=round(orders / seconds),
        cpu_us_per_order=us_per_order(before, after, orders),
        busy_share=round(busy, 3),
        steal_share=round(steal, 3),
    )


async def _until_through(deployment: Deployment, question: str, orders: int) -> float:
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            deployment.check()
            row = await deployment.connection.fetchrow(question)
            assert row is not None
            if row[0] >= orders:
                return float(row[1])
            await asyncio.sleep(_LOOK_EVERY_S)


def rounds(count: int) -> Iterator[tuple[int, str]]:
    return ((workers, products) for _ in range(count) for products in PRODUCTS for workers in COUNTS)


async def run(servers: Servers, orders: int, count: int) -> list[Stage]:
    await make_template(servers)
    stages: list[Stage] = []
    for workers, products in rounds(count):
        since = time.monotonic()
        found = await measure(servers, workers, products, orders)
        stages += found
        told = ", ".join(f"{it.stage} {it.orders_per_s:,}/s" for it in found)
        print(f"{workers} of each, {products}: {told} ({time.monotonic() - since:.0f} s)", flush=True)
    return stages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--orders", type=int, default=200_000)
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
