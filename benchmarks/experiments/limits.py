"""Upper limits of the parts: publishing without HTTP, storing without a pipeline. Not contenders, but rows beside them.

bare-publish   one order in one message, confirmed, then the next: the least that a single order can take
amqp-publish   messages of as many orders as 256 connections make, two in flight, as ingest_api has them
psql-copy      the same rows from a file, by psql's COPY, in one transaction
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from benchmarks.contenders.contender import Contender
from benchmarks.experiments.made_orders import accepted_orders, take, wire
from benchmarks.generators.generators import GeneratorFailed
from benchmarks.processes import Usage, others_share, shares, us_per_order
from benchmarks.report.results import Run, percentiles
from benchmarks.run.deployment import Deployment, deployed
from benchmarks.run.measure import Place
from benchmarks.run.servers import Servers, products_of
from database.copy_text import copy_text
from pipeline.contract.columns import names_of
from pipeline.contract.orders import COLUMNS
from stack.servers import binaries

GROUP_ORDERS = 128
IN_FLIGHT = 2
COPIED_ROWS_PER_S = 20_000
_PRODUCTS = 1_000


@dataclass(frozen=True)
class Done:
    """The result of a limit: number of orders, seconds, and the times of single orders, if measured."""

    orders: int
    seconds: float
    took_ms: list[float]


@dataclass(frozen=True)
class Limit:
    contender: Contender
    """Its name and description; it has no processes."""
    experiment: str
    load: str
    work: Callable[[Deployment, float], Awaitable[Done]]
    """The work, for about this many seconds."""

    async def measure(self, servers: Servers, pair: int, seconds: float) -> Run:
        """Raises GeneratorFailed, and what the servers raise."""
        async with deployed(self.contender, servers) as deployment:
            before, own_before = deployment.parts.usage(), _own_cpu_s()
            done = await self.work(deployment, seconds)
            after, own_s = deployment.parts.usage(), _own_cpu_s() - own_before
        return self._to_run(pair, done, before, after, own_s)

    def _to_run(self, pair: int, done: Done, before: Usage, after: Usage, own_s: float) -> Run:
        busy_share, steal_share = shares(before.machine, after.machine)
        rate = round(done.orders / done.seconds, 1)
        place = Place(self.experiment, pair)
        return Run(
            experiment=place.experiment,
            contender=self.contender.name,
            load=self.load,
            pair=place.pair,
            seconds=round(done.seconds, 3),
            accepted=done.orders,
            accepted_per_s=rate,
            end_to_end_per_s=rate,
            latency_ms=percentiles(done.took_ms),
            cpu_us_per_order={
                **us_per_order(before, after, done.orders),
                "generator": round(own_s / done.orders * 1e6, 1),
            },
            generator=self.contender.name,
            generator_share=round(own_s / done.seconds, 3),
            busy_share=round(busy_share, 3),
            steal_share=round(steal_share, 4),
            others_share=round(others_share(before, after, os.cpu_count() or 1, own_s), 3),
        )


# ── I/O below


async def publish_one_by_one(deployment: Deployment, seconds: float) -> Done:
    orders = accepted_orders(await products_of(deployment.connection, _PRODUCTS))
    took_ms = []
    async with wire(deployment.environment["AMQP_URL"]) as to:
        begun = time.perf_counter()
        while (since := time.perf_counter()) < begun + seconds:
            body, _ = take(orders, 1)
            await to.publish(body, 1)
            took_ms.append((time.perf_counter() - since) * 1000)
        return Done(len(took_ms), time.perf_counter() - begun, took_ms)


async def publish_groups(deployment: Deployment, seconds: float) -> Done:
    """Bodies are made beforehand: what is measured is the broker, and the client that waits for it."""
    orders = accepted_orders(await products_of(deployment.connection, _PRODUCTS))
    bodies = [take(orders, GROUP_ORDERS)[0] for _ in range(100)]
    confirmed = 0
    deadline = 0.0

    async with wire(deployment.environment["AMQP_URL"]) as to:

        async def publish() -> None:
            nonlocal confirmed
            while time.perf_counter() < deadline:
                await to.publish(bodies[confirmed % len(bodies)], GROUP_ORDERS)
                confirmed += 1

        begun = time.perf_counter()
        deadline = begun + seconds
        async with asyncio.TaskGroup() as tasks:
            for _ in range(IN_FLIGHT):
                tasks.create_task(publish())
        return Done(confirmed * GROUP_ORDERS, time.perf_counter() - begun, [])


async def copy_file(deployment: Deployment, seconds: float) -> Done:
    rows, file = int(seconds * COPIED_ROWS_PER_S), deployment.directory / "rows"
    orders = accepted_orders(await products_of(deployment.connection, _PRODUCTS))
    wanted = islice(orders, rows)
    with file.open("wb") as output:
        while some := list(islice(wanted, 1_000)):
            output.write(copy_text(COLUMNS, some))
    begun = time.perf_counter()
    await _psql(deployment.environment["DATABASE_URL"], f"\\copy orders ({names_of(COLUMNS)}) FROM '{file}'")
    return Done(rows, time.perf_counter() - begun, [])


async def _psql(database_url: str, command: str) -> None:
    """Raises GeneratorFailed."""
    found = binaries.find("postgres")
    program = found.path / "psql" if found else Path("psql")
    psql = await asyncio.create_subprocess_exec(
        *(str(program if program.exists() else "psql"), "--no-psqlrc", "--quiet", "--command", command, database_url),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=dict(os.environ),
    )
    try:
        _, errors = await psql.communicate()
    finally:
        if psql.returncode is None:
            psql.kill()
            await psql.wait()
    if psql.returncode:
        raise GeneratorFailed(f"psql: {errors.decode().strip()}")


def _own_cpu_s() -> float:
    """Of this process, which publishes, and of psql."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(it.ru_utime + it.ru_stime for it in used)


def _limit(name: str, title: str, what: str, experiment: str, load: str, work: Callable[..., Awaitable[Done]]) -> Limit:
    contender = Contender(name, title, what, "Nothing is behind it.", parts=(), stores=False)
    return Limit(contender, experiment, load, work)


LIMITS = {
    it.contender.name: it
    for it in (
        _limit(
            "bare-publish",
            "one confirmed publish at a time",
            "One order in one persistent message to the same quorum queue; the next one when it is confirmed.",
            "single",
            "closed 1",
            publish_one_by_one,
        ),
        _limit(
            "amqp-publish",
            "publishing without HTTP",
            f"Messages of {GROUP_ORDERS} orders that are encoded already, {IN_FLIGHT} in flight, confirmed.",
            "limits",
            f"{IN_FLIGHT} messages of {GROUP_ORDERS} in flight",
            publish_groups,
        ),
        _limit(
            "psql-copy",
            "COPY without a pipeline",
            "The rows of orders from a file, by psql, in one transaction.",
            "limits",
            "one COPY",
            copy_file,
        ),
    )
}
