"""The event log of a scenario, followed in each way from its first event on: event_relay runs, and readers read.

async with followed.under_load() as client:         orders as in any scenario, fewer, and parked ones among them
    hook = await followed.add_hook()
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

from pipeline.contract.orders import Order
from pipeline.process import lifecycle
from tests.chaos.account import server_state
from tests.chaos.account.event_readers import EventReader, i9_each_event_comes
from tests.chaos.account.invariants import Broken
from tests.chaos.scene.attempts import MAX_QUANTITY, PRICE
from tests.chaos.scene.client import Client
from tests.chaos.scene.commits import Commits
from tests.chaos.scene.event_reading import bind_queue, consume, read_pages, read_stream, taking
from tests.chaos.scene.parked_orders import ParkedOrders
from tests.chaos.scene.scene import Scene
from tests.chaos.scene.webhook import Webhook
from tests.support.clients.attacks import quantile
from tests.support.data.orders import order
from tests.support.services.relay import add_hook
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

RELAY = "event_relay"
# Four readers, a look-up for each of their batches, and event_relay share the machine with everything else.
PER_S = 200.0
_ALL_READ_S = 60.0
_LOOK_EVERY_S = 0.1
# For an event that waits for nobody: far more than it takes, and less than what a scenario keeps waiting.
PROMPT_S = 2.0
_BEFORE_S = 3


class Followed:
    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.pages, self.stream = EventReader("GET of pages"), EventReader("the stream")
        self.queue = EventReader("RabbitMQ", at_least_once=True)
        self.hooks: list[Webhook] = []
        self.within_s = _ALL_READ_S
        """Limit of the time until all readers have everything, from when nothing more is decided."""
        self._commits = Commits(scene.database_url)
        self._parked = ParkedOrders(scene.database_url, scene.amqp_url, self._order, scene.was_accepted)
        self._rng = scene.random("parked orders")
        self._reading: list[asyncio.Task[None]] = []

    @property
    def readers(self) -> list[EventReader]:
        return [self.pages, self.stream, self.queue, *(it.reader for it in self.hooks)]

    async def begin(self) -> None:
        """Start event_relay and the readers. The log is empty."""
        await self.scene.deployment.start(RELAY)
        await bind_queue(self.scene.amqp_url)
        url = self.scene.deployment.url("ingest_api")
        self._read(read_pages(url, taking(self.pages, self._commits)))
        self._read(read_stream(url, taking(self.stream, self._commits)))
        self._read(consume(self.scene.amqp_url, taking(self.queue, self._commits)))

    async def add_hook(self, batch: int = 100) -> Webhook:
        """A hook that begins with the first event, and a receiver that takes what comes."""
        reader = EventReader(f"webhook {len(self.hooks) + 1}", at_least_once=True)
        hook = Webhook(reader, taking(reader, self._commits))
        await hook.up()
        self.hooks.append(hook)
        async with connected(self.scene.database_url) as connection:
            hook.hook_id = await add_hook(connection, hook.url, batch=batch)
        return hook

    @contextlib.asynccontextmanager
    async def under_load(self) -> AsyncIterator[Client]:
        """Orders at a pace, see Scene, and besides some that are parked first. The block starts when it is steady."""
        async with self.scene.under_load(per_s=PER_S) as client:
            parking = asyncio.create_task(self._parked.run())
            try:
                yield client
            finally:
                self._parked.stop()
                await parking
        assert self._parked.count, "no order has two events"

    async def catches_up(self, *readers: EventReader, within_s: float = 30) -> None:
        """Wait until these readers have every event of orders that are decided now."""
        happened = await self._happened()
        await eventually(lambda: not any(it.lacks(happened) for it in readers), within_s, _LOOK_EVERY_S)

    async def account(self, happened: Mapping[str, int]) -> Broken:
        """Wait until all readers have everything, end them, and return what of I9 is broken. `happened`: in the end."""
        with contextlib.suppress(AssertionError):
            await eventually(lambda: not any(it.lacks(happened) for it in self.readers), self.within_s, _LOOK_EVERY_S)
        relay = self.scene.deployment.services[RELAY]
        assert await relay.stop() == 0, relay.log()[-2000:]
        await self.close()
        return i9_each_event_comes(self.readers, happened)

    async def close(self) -> None:
        """End the readers. Raises what ended one of them before."""
        ended = [it.exception() for it in self._reading if it.done() and not it.cancelled()]
        await lifecycle.end(self._reading)
        self._reading.clear()
        self._commits.close()
        for hook in self.hooks:
            await hook.down()
        for error in filter(None, ended):
            raise error

    async def _happened(self) -> dict[str, int]:
        async with connected(self.scene.database_url) as connection:
            return await server_state.causes_of_events(connection)

    def _read(self, reading: Coroutine[Any, Any, None]) -> None:
        self._reading.append(asyncio.create_task(reading))

    def _order(self) -> Order:
        quantity = self._rng.randint(1, MAX_QUANTITY)
        return order(self._rng.choice(self.scene.products), quantity, price=PRICE)


def assert_prompt(reader: EventReader, since_s: float, until_s: float) -> None:
    """Assert that a reader got the events of verdicts between these times at once.

    A machine that was slower before the fault may be twice as slow as that: it has other work.
    """
    took_s, before_s = reader.took_s(since_s, until_s), reader.took_s(since_s - _BEFORE_S, since_s)
    assert len(took_s) > 100, reader.name
    assert quantile(took_s, 0.99) <= max(PROMPT_S, 2 * quantile(before_s, 0.99)), reader.name
