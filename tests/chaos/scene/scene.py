"""One scenario: send orders, break something, repair it, and account for every order.

async with scene.under_load():                      orders at a pace; the block starts when it is steady
    await scene.servers.kill("rabbitmq")            the fault
    scene.over()                                    the fault has ended: the recovery time starts
    await scene.recovers()                          orders continue until throughput has recovered
await scene.check(Logged(...), Counts(...))           drains, stops, checks all invariants, adds the row of results
"""

import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from pipeline.contract.orders import Order
from tests.chaos.account import server_state
from tests.chaos.account.invariants import (
    Broken,
    i1_no_order_is_lost,
    i2_each_is_there_once,
    i3_stock_adds_up,
    i4_what_is_stored_was_sent,
    i5_no_bust_is_lost,
    i5_the_cache_is_true,
    i6_nobody_waits_and_nothing_swells,
    i7_throughput_is_back,
    i8_the_fault_is_named,
)
from tests.chaos.account.results import Row
from tests.chaos.account.signs import Before, Sign, seen
from tests.chaos.faults.servers import OwnServers
from tests.chaos.scene.attempts import PRICE, Attempt, Verdict, WantedOrder, intents_of, some_orders
from tests.chaos.scene.client import Client, ordering
from tests.chaos.scene.pace import Pace
from tests.chaos.scene.single_orders import SingleOrders
from tests.chaos.scene.watch import Watch, read_products
from tests.support.brokers.broker import running_task
from tests.support.services.deployment import Deployment
from tests.support.services.ingest import insert_product
from tests.support.services.processes import Service, service_process
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

PER_S = 500.0
PRODUCTS = 20
# More stock than any load orders, unless a scenario says otherwise.
QTY = 10**15
# ingest_api waits 5 s for a confirm, after waiting for Redis and PostgreSQL.
DEADLINE_S = 10.0
FAILING = "tests.chaos.faults.failing"
# For queries to busy servers.
_ASK_EVERY_S = 0.25
_RECOVERY_S = 30.0
_DRAIN_S = 60.0
# Longer than a worker's lock timeout in PostgreSQL.
_TOLD_WITHIN_S = 20.0
# product_consumer sends deferred busts within a second after Redis is back.
_CACHE_S = 5.0
# ingest_api's queue is bounded by 16 MB, a worker's batch by 64 MB; the rest is connections, and Python.
_MEMORY_MB = 256.0


@dataclass
class Scene:
    name: str
    what: str
    deployment: Deployment
    seed: str
    tell: Callable[[Row], None]
    database_url: str
    """The URL of PostgreSQL itself, not of a proxy."""
    amqp_url: str
    products: list[str] = field(default_factory=list)
    memory_mb: float = _MEMORY_MB
    """Memory limit of a service."""
    within_s: float = _RECOVERY_S
    """Limit of the recovery time."""
    server_logs: Mapping[str, Path] = field(default_factory=dict)
    """Server → log, which may name the fault too."""
    names_fault: bool = True
    """Whether I8 is checked."""
    account_of_readers: Callable[[Mapping[str, int]], Awaitable[Broken]] | None = None
    """Checks the readers' part of I9. Called once all is decided, with order id → number of its events."""

    def __post_init__(self) -> None:
        self.rng = self.random("faults")
        self._orders_rng = self.random("orders")
        self._readers = 0
        self.client = Client(self.deployment.url("ingest_api"))
        self.watch = Watch(self.deployment, self.database_url)
        self.pace = Pace(self.client, self.database_url)
        self.single_orders = SingleOrders(
            self.deployment, self.database_url, self.deployment.environment["REDIS_URL"], self.random("single_orders")
        )
        self._before = Before()
        self._told_besides: list[tuple[str, str]] = []

    def random(self, name: str) -> random.Random:
        """A generator of its own for each user, so that one user's draws do not change another's."""
        return random.Random(f"{self.seed} {name}")

    # ── the load

    async def make_products(self, count: int = PRODUCTS, qty: int = QTY) -> None:
        self.products += [await insert_product(self.database_url, PRICE, qty) for _ in range(count)]

    @contextlib.asynccontextmanager
    async def under_load(
        self, orders: Iterator[WantedOrder] | None = None, *, per_s: float = PER_S, keyed: float = 0.1
    ) -> AsyncIterator[Client]:
        """Send orders for the block, which starts when throughput is steady. `orders`: instead of `some_orders`."""
        if not self.products:
            await self.make_products()
        orders = self.single_orders.among(orders or some_orders(self._orders_rng, self.products, keyed=keyed))
        beside = (self.watch.run(), self.single_orders.run(), *self.readers(1))
        async with running_task(*beside), ordering(self.client, orders, per_s):
            await self.pace.until_steady(per_s)
            self._before = await Before.of(self.deployment, self.server_logs)
            self.watch.begin()
            self.single_orders.begin()
            yield self.client

    def readers(self, count: int) -> list[Coroutine[Any, Any, None]]:
        """Coroutines that read products until cancelled."""
        self._readers += count
        numbers = range(self._readers - count, self._readers)
        return [read_products(self.deployment, self.random(f"reader {it}"), self.products) for it in numbers]

    async def goes_on(self, seconds: float) -> None:
        """Let orders come for this long. A lasting fault consists of this and nothing else."""
        until = time.time() + seconds
        await eventually(lambda: self.client.attempts[-1].sent_s >= until, seconds + 10)

    @contextlib.asynccontextmanager
    async def nobody_orders(self) -> AsyncIterator[None]:
        """Pause sending, and wait until nothing is in flight, so that the block can break things and lose no order."""
        self.client.rests = True
        try:
            await self.client.answered()
            assert not (unquiet := await self._until_quiet()), unquiet
            yield
        finally:
            self.client.rests = False

    @contextlib.asynccontextmanager
    async def more(self, **counts: int) -> AsyncIterator[list[Service]]:
        """Start more processes of a service, given by name. They stop gracefully when the block ends."""
        async with contextlib.AsyncExitStack() as stack:
            services = [
                await stack.enter_async_context(
                    service_process(name, {**self.deployment.environment, **self.deployment.own.get(name, {})})
                )
                for name, count in counts.items()
                for _ in range(count)
            ]
            self.watch.beside += services
            yield services
            assert [await it.stop() for it in services] == [0] * len(services)
            self._told_besides += [(it.name, it.log()) for it in services]

    def was_accepted(self, order: Order) -> None:
        """Record an order that the test itself published instead of ingest_api."""
        attempt = Attempt(WantedOrder(order.product_id, order.quantity))
        attempt.end(202, order.id)
        self.client.attempts.append(attempt)

    def over(self) -> None:
        """A fault has ended."""
        self.pace.over()

    async def recovers(self) -> None:
        """Wait until throughput has recovered, or the limit is reached."""
        await self.pace.recovers(self.within_s)

    # ── faults

    async def dies_at(self, name: str, failpoint: str) -> None:
        """Replace a service by one that kills itself at `failpoint`. After that, start a normal one."""
        await self.deployment.stop(name)
        await self.fails_at(name, f"{failpoint}:kill", ready=None)
        service = self.deployment.services[name]
        assert await service.ended() == -signal.SIGKILL, service.log()
        self.over()
        await self.deployment.start(name)

    async def fails_at(self, name: str, failpoint: str, ready: str | None = "/readyz") -> None:
        """Start a service with a failpoint, see tests.chaos.faults.failpoints. The former one must have ended."""
        await self.deployment.start(name, program=FAILING, ready=ready, HEADRACE_FAILPOINT=failpoint)

    async def kill(self, name: str) -> None:
        """kill -9 a service, and start it again at once."""
        assert await self.deployment.stop(name, signal.SIGKILL) == -signal.SIGKILL, "it was dead before"
        self.over()
        await self.deployment.start(name)

    async def until_it_says(self, name: str, words: str) -> None:
        """Wait until the log of the current service has these words."""
        await eventually(lambda: words in self.deployment.services[name].log(), _TOLD_WITHIN_S, _ASK_EVERY_S)

    async def metric(self, name: str, sample: str) -> float:
        return await self.deployment.services[name].metric(sample)

    # ── the account

    async def check(self, *signs: Sign) -> Row:
        """Wait until all is drained, stop the workers, and check all invariants against the clients' records.

        `signs`: how the fault shows. Raises AssertionError, after recording the row, if an invariant is violated.
        """
        unquiet = await self._until_quiet()
        found = await seen(self.deployment, self.server_logs, self._told_besides, self._before, signs)
        cache = await self._cache()
        queued = await self._stop_workers()
        async with connected(self.database_url) as connection:
            held = await server_state.final_state(connection, [*self.products, *self.single_orders.bought], queued)
            happened = await server_state.causes_of_events(connection)
            log = await server_state.wrong_in_the_log(connection)
        readers = await self.account_of_readers(happened) if self.account_of_readers else []
        intents = intents_of(self.client.attempts)
        broken = {
            "I1": i1_no_order_is_lost(intents, held),
            "I2": i2_each_is_there_once(intents, held),
            "I3": i3_stock_adds_up(held, self.watch.found()),
            "I4": i4_what_is_stored_was_sent(intents, held, Decimal(PRICE)),
            "I5": cache,
            "I6": i6_nobody_waits_and_nothing_swells(
                self.client.attempts, DEADLINE_S, self.watch.peak_mb, self.memory_mb
            ),
            "I7": [*i7_throughput_is_back(self.pace.recover_s, self.within_s), *unquiet],
            "I8": i8_the_fault_is_named(signs, found) if self.names_fault else [],
            "I9": [*log, *readers],
        }
        row = self._row(broken)
        self.tell(row)
        if row.broken:
            self._tell_the_story()
        assert not row.broken, "\n".join(f"{name}: {line}" for name, lines in broken.items() for line in lines[:10])
        return row

    def _tell_the_story(self) -> None:
        """Print the clients' records and the services' logs, for the engineer who investigates."""
        print(
            Counter((attempt.status, attempt.told if attempt.status != 202 else "") for attempt in self.client.attempts)
        )
        for service in (*self.deployment.former, *self.deployment.services.values()):
            print(f"── {service.name}, pid {service.process.pid}\n{service.log()[-3000:]}")

    def _row(self, broken: Mapping[str, Broken]) -> Row:
        intents = intents_of(self.client.attempts)
        verdicts = [it.verdict for it in intents]
        back = self.pace.recover_s.values()
        unknown = Counter(f"{it.status} {it.told}" for it in self.client.attempts if it.verdict is Verdict.UNKNOWN)
        return Row(
            scenario=self.name,
            what=self.what,
            offered=len(verdicts),
            ok=verdicts.count(Verdict.OK),
            refused=verdicts.count(Verdict.FAIL),
            unknown=sum(it.was_unknown for it in intents),
            unknown_as=dict(unknown.most_common()),
            lost=len(broken["I1"]),
            duplicated=len(broken["I2"]) + len(broken["I4"]),
            oversold=len(broken["I3"]),
            recover_s=None if None in back else round(max(it for it in back if it is not None), 2),
            broken=[name for name, lines in broken.items() if lines],
        )

    async def _until_quiet(self) -> Broken:
        """Wait until queues are empty, have consumers, and all is decided. Returns what is not so in time."""
        unquiet: Broken = []

        async def is_quiet() -> bool:
            queues = await server_state.queues(self.amqp_url)
            unquiet[:] = [f"nobody consumes {it}" for it, (_, consumers) in queues.items() if not consumers]
            unquiet.extend(f"{ready} messages wait in {it}" for it, (ready, _) in queues.items() if ready)
            async with connected(self.database_url) as connection:
                if count := await server_state.undecided(connection):
                    unquiet.append(f"{count} orders are stored and undecided")
            return not unquiet

        with contextlib.suppress(AssertionError):
            await eventually(is_quiet, _DRAIN_S, _ASK_EVERY_S)
        return unquiet

    async def _cache(self) -> Broken:
        """Check I5, and retry until it holds or the time is up."""
        broken: Broken = []

        async def is_true() -> bool:
            async with connected(self.database_url) as connection, self.deployment.client("product_api") as client:
                cached = await server_state.products_in_cache(client, self.products)
                broken[:] = i5_the_cache_is_true(
                    cached, await server_state.products_in_database(connection, self.products)
                )
                broken.extend(i5_no_bust_is_lost(*await self.single_orders.look()))
            return not broken

        with contextlib.suppress(AssertionError):
            await eventually(is_true, _CACHE_S, _ASK_EVERY_S)
        return broken

    async def _stop_workers(self) -> dict[str, int]:
        """Stop the workers gracefully (P9). Returns the messages left in the queues."""
        for name in ("persist_worker", "product_consumer"):
            assert await self.deployment.stop(name) == 0, self.deployment.services[name].log()[-2000:]
        return {queue: ready for queue, (ready, _) in (await server_state.queues(self.amqp_url)).items()}


@dataclass(kw_only=True)
class BreakableScene(Scene):
    """A scene with its own servers, which a test may break."""

    servers: OwnServers
