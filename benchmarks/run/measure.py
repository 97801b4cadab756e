"""One run: warm up, load, drain, account for every order, and say what it cost."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

from benchmarks.contenders.contender import Contender, Part
from benchmarks.generators import k6, open_loop, wrk
from benchmarks.generators.bodies import PLAIN, Shape, order_bodies
from benchmarks.generators.generators import Load, Sent, Target
from benchmarks.processes import Usage, others_share, shares, us_per_order
from benchmarks.report.results import Percentiles, Run
from benchmarks.run.accounting import Account, Times, audit, times
from benchmarks.run.deployment import Deployment
from benchmarks.run.servers import products_of
from proof.accounting_sql import POLL_S, Question, spread, undecided, unsettled

# A generator that has used this share of what it can use is no longer measuring the contender.
BOUND_SHARE = 0.95
# Nothing decided for so long: what is left will never be.
PATIENCE_S = 10.0
# Asked for by id while the rest waits: some spread over the load, and its end.
_PROBES = 32
# To ask for every product once, a warm-up takes as long as this at the most, with a number of connections that none
# of the contenders drowns in.
ASKING_S = 20
ASKING_CONNECTIONS = 32
# Bulk bodies hold hundreds of orders each: a few different ones are enough.
BULK_BODIES = 20


NOTHING_STORED = Account(0, None)
NO_TIMES = Times(Percentiles(), Percentiles(), None, 0)


@dataclass(frozen=True)
class Place:
    """Which run of which experiment this is."""

    experiment: str
    pair: int
    variant: str = ""


@dataclass(frozen=True)
class Cost:
    """What everything had used before the load, after it, and when all was decided."""

    before: Usage
    loaded: Usage
    after: Usage
    """When the cost of an order is complete."""
    rss_mb: dict[str, float]


def bodies(contender: Contender, products: list[str], shape: Shape = PLAIN) -> list[bytes]:
    """Request bodies, one order each or many; together they order every product."""
    orders = order_bodies(products, shape)
    if contender.request != "bulk":
        return orders
    endless = cycle(orders)
    return [b"[%s]" % b",".join(islice(endless, contender.orders_per_request)) for _ in range(BULK_BODIES)]


def to_run(
    place: Place, contender: Contender, load: str, sent: Sent, account: Account, found: Times, cost: Cost
) -> Run:
    """The row of the result file."""
    drain_s = max(0.0, (found.last_decided_s or 0.0) - sent.last_s)
    accepted = len(sent.ids)
    busy_share, steal_share = shares(cost.before.machine, cost.loaded.machine)
    others = others_share(cost.before, cost.loaded, os.cpu_count() or 1, sent.used.cpu_s)
    cpu_us = us_per_order(cost.before, cost.after, accepted)
    generator_s = sent.used.cpu_s if sent.driving_cpu_s is None else sent.driving_cpu_s
    notes = [f"first refusal: {sent.first_refusal}"] if sent.first_refusal else []
    return Run(
        experiment=place.experiment,
        contender=contender.name,
        load=load,
        pair=place.pair,
        variant=place.variant,
        seconds=round(sent.seconds, 3),
        accepted=accepted,
        errors=sent.errors,
        unknown_stored=account.unknown_stored,
        accepted_per_s=round(accepted / sent.seconds, 1),
        end_to_end_per_s=round(accepted / (sent.seconds + drain_s), 1),
        backlog=found.backlog,
        drain_s=round(drain_s, 3),
        latency_ms=sent.latency_ms,
        stored_ms=found.stored_ms,
        decided_ms=found.decided_ms,
        cpu_us_per_order={**cpu_us, "generator": round(generator_s / accepted * 1e6, 1)} if accepted else {},
        rss_mb={**cost.rss_mb, "generator": sent.used.rss_mb} if sent.used.rss_mb else cost.rss_mb,
        generator=sent.generator,
        generator_share=round(sent.share_of_core, 3),
        generator_bound=sent.share_of_core > BOUND_SHARE * sent.cores,
        busy_share=round(busy_share, 3),
        steal_share=round(steal_share, 4),
        others_share=round(others, 3),
        late_ms=sent.late_ms,
        notes=notes,
        void=account.void,
    )


def failed(place: Place, contender: Contender, load_name: str, reason: str) -> Run:
    return Run(
        experiment=place.experiment,
        contender=contender.name,
        load=load_name,
        pair=place.pair,
        variant=place.variant,
        failed=reason,
    )


# ── I/O below


async def measure(
    deployment: Deployment, place: Place, load: Load, *, warm_up_s: float = 0.0, late: tuple[Part, ...] = ()
) -> Run:
    """Put `load` on a deployment and account for all that it was ever sent.

    The warm-up, of `warm_up_s` at least, is drained before the clock starts, and is in no figure. `late`: parts that
    are started after the load; the CPU time of an order is then that of the load alone. Raises ContenderFailed,
    GeneratorFailed.
    """
    contender, parts = deployment.contender, deployment.parts
    target = await _aim(deployment, load)
    if warm_up_s:
        warming = await _warm_up(deployment, target, load, warm_up_s)
        if contender.stores and not late:
            await settle_down(deployment, warming, list(deployment.answers.cancelled))
    parts.forget_peaks()
    before = parts.usage()
    sent = await _send(deployment, target, load)
    loaded = parts.usage()
    if not contender.stores:
        cost = Cost(before, loaded, loaded, parts.peak_rss_mb())
        return to_run(place, contender, load.name, sent, NOTHING_STORED, NO_TIMES, cost)
    await deployment.start(late)
    after = await settle_down(deployment, sent.ids, sent.cancelled)
    cost = Cost(before, loaded, loaded if late else after, parts.peak_rss_mb())
    account = await audit(deployment.connection, deployment.answers)
    found = await times(deployment.connection, sent.first_s, sent.last_s)
    return to_run(place, contender, load.name, sent, account, found, cost)


async def settle_down(deployment: Deployment, ids: Sequence[str], cancelled: Sequence[str] = ()) -> Usage:
    """Wait until each id is decided and each cancellation is settled, or nothing has moved for PATIENCE_S. Returns what
    had been used by then.

    A few ids stand for the rest while they wait: to ask for all takes the database longer than to decide them.
    Raises ContenderFailed.
    """
    pending: dict[Question, Sequence[str]] = {undecided: list(ids), unsettled: list(cancelled)}
    while True:
        moved = [await _wait_for(deployment, which, _probes(left)) for which, left in pending.items() if left]
        used, before = deployment.parts.usage(), pending
        pending = {which: await which(deployment.connection, left) for which, left in before.items() if left}
        if not any(pending.values()) or (not any(moved) and _count(pending) == _count(before)):
            return used


def _count(pending: Mapping[Question, Sequence[str]]) -> int:
    return sum(map(len, pending.values()))


def _probes(pending: Sequence[str]) -> list[str]:
    return [*spread(pending, _PROBES), *pending[-_PROBES:]]


async def _wait_for(deployment: Deployment, which: Question, probes: list[str]) -> bool:
    """Whether all of them were ready, or at least one in each stretch of PATIENCE_S."""
    deadline, left = time.monotonic() + PATIENCE_S, probes
    while left := await which(deployment.connection, probes):
        deployment.check()
        if len(left) < len(probes):
            deadline, probes = time.monotonic() + PATIENCE_S, left
        elif time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_S)
    return True


async def _aim(deployment: Deployment, load: Load) -> Target:
    contender, file = deployment.contender, deployment.directory / f"bodies-{load.products}-{load.shape.name}"
    if not file.exists():
        products = await products_of(deployment.connection, load.products)
        file.write_bytes(b"\n".join(bodies(contender, products, load.shape)) + b"\n")
    return Target(deployment.url, contender.path, file, contender.request == "keyed", load.cancelled)


async def _warm_up(deployment: Deployment, target: Target, load: Load, seconds: float) -> list[str]:
    """Ask for every product, then load for so long. Returns the ids of what was accepted.

    A slow contender would otherwise go on looking up prices while it is measured, and a fast one not.
    """
    requests = 0 if deployment.contender.request == "bulk" else load.products
    asking = replace(load, seconds=ASKING_S, connections=ASKING_CONNECTIONS, rate=0, most_requests=requests)
    loading = replace(load, seconds=seconds, connections=load.connections or ASKING_CONNECTIONS, rate=0)
    loads = ([asking] if requests else []) + [loading]
    return [order for it in loads for order in (await _send(deployment, target, it)).ids]


async def _send(deployment: Deployment, target: Target, load: Load) -> Sent:
    """Raises ContenderFailed, GeneratorFailed."""
    sent = await _generator_of(load)(target, load, deployment.directory)
    deployment.check()
    deployment.answers.add(sent.ids, sent.unknown * deployment.contender.orders_per_request, sent.cancelled)
    return sent


def _generator_of(load: Load) -> Callable[[Target, Load, Path], Awaitable[Sent]]:
    """A closed loop from wrk, or from k6 where there is none; an open one from ours, unless k6 is to check it."""
    if load.connections:
        return wrk.drive if wrk.find() else k6.drive
    return k6.drive if load.by_k6 else open_loop.drive
