"""Consumes orders.dead: parks each order that the broker dead-lettered, as the workers park poison themselves.

A message that was delivered more often than its queue allows, or rejected, ends in orders.dead with all its orders.
Nobody else would ever give them a verdict (P4). Each order becomes a dead letter of its own, byte for byte. The
database decides its stage, not the queue that it came from: a replay has to do what is still to be done.

    decided                         no letter: this was a redelivery, and the verdict stands
    stored, without a verdict       from orders.created: stage stock, so FAILED until it is replayed there.
                                    From orders.accepted: no letter, but forwarded to orders.created, as it should
                                    have been. A duplicate may be there already, and no order may go from FAILED to
                                    PROCESSED by itself
    not stored, or the id is taken  stage persist: FAILED until it is replayed to orders.accepted
    unreadable                      one letter, with the stage of its queue; for the whole message if it cannot be split
    a cancellation                  one letter, stage cancel, that names no order: the order goes on without it

A fault here must not stop the worker. So this consumer has its own database connection, and a bug ends only it.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from database.channels import VERDICTS
from database.connection import PART as DATABASE
from database.connection import Connection, Database
from database.dead_letters import DeadLetter, count_parked, park
from persist_worker.forward import forward
from persist_worker.waiting_letters import count_waiting_letters
from pipeline.broker.batches import BatchConsumer
from pipeline.broker.deliveries import BatchLimits, Delivery
from pipeline.broker.publisher import Publisher
from pipeline.contract import topology
from pipeline.contract.orders import (
    SCHEMAS,
    AnyOrder,
    InvalidOrder,
    decode_order,
    id_in,
    join_bodies,
    latest_schema,
    ordered,
    split_body,
)
from pipeline.contract.reasons import BROKER_REASONS, Reason
from pipeline.contract.stages import Stage
from pipeline.process.health import Health
from pipeline.process.settings import PipelineSettings

log = structlog.get_logger()

PART = "dead letters"
_STAGE_OF = {queue: stage for stage, queue in topology.QUEUES.items()}

# Nobody waits for this queue. At 1 MiB a message, persist_worker's largest, at most 8 MB are prefetched.
LIMITS = BatchLimits(orders=2_000, size_bytes=1024**2, deliveries=4, linger_s=0)
PREFETCH = 8

_KNOWN = f"""
    SELECT o.id::text, o.products, o.quantities, stock_ledger.order_id IS NOT NULL OR EXISTS (
        SELECT FROM dead_letters d WHERE d.order_id = o.id AND d.stage = '{Stage.STOCK}' AND d.replayed_at IS NULL
    ) AS is_decided
    FROM (
        SELECT id,
            array_agg(product_id::text ORDER BY line) AS products, array_agg(quantity ORDER BY line) AS quantities
        FROM orders WHERE id = ANY($1::uuid[]) GROUP BY id
    ) o LEFT JOIN stock_ledger ON order_id = o.id
"""


@dataclass(frozen=True, slots=True)
class XDeath:
    """Why the broker dead-lettered a message, if its x-death header says: anybody can publish to the exchange."""

    queue: str
    reason: Reason
    detail: str

    @classmethod
    def of(cls, deaths: object) -> "XDeath":
        latest: Mapping[str, Any] = deaths[0] if isinstance(deaths, list) and deaths else {}
        if not isinstance(latest, Mapping):
            latest = {}
        queue, reason = str(latest.get("queue", "")), BROKER_REASONS.get(str(latest.get("reason")))
        if reason is None:
            return cls(queue, Reason.DEAD_LETTERED, f"the broker does not say why: {latest!r:.300}")
        since = f"{latest.get('count')} time(s), first at {latest.get('time')}"
        return cls(queue, reason, f"the broker gave it up in {queue!r}: {reason}, {since}")


@dataclass(frozen=True, slots=True)
class DeadOrder:
    """One order of a dead-lettered message, or the whole message if it cannot be split."""

    letter: DeadLetter
    stage: Stage
    """Its queue's. Without a known queue: persist, whose worker stores what is new and forwards the rest."""
    order: AnyOrder | None


@dataclass(frozen=True, slots=True)
class KnownOrder:
    """An order as stored in the database."""

    ordered: tuple[tuple[str, int], ...]
    """Product and quantity of each line."""
    is_decided: bool
    """Has a verdict, or was parked by product_consumer, and so is FAILED until that letter is replayed."""

    def is_the_same(self, order: AnyOrder) -> bool:
        """Whether the stored row is this order, and not another one under the same id."""
        return self.ordered == ordered(order)


@dataclass(frozen=True, slots=True)
class SortedLetters:
    """Dead letters by what becomes of them. Those of decided orders are in neither."""

    parked: dict[Stage, list[DeadLetter]] = field(default_factory=lambda: {stage: [] for stage in Stage})
    """By the stage that the order still has to pass."""
    forwarded: list[DeadLetter] = field(default_factory=list)
    """Of orders that are stored and not decided, and never reached product_consumer."""


def split_messages(deliveries: Iterable[Delivery]) -> list[DeadOrder]:
    """Split dead-lettered messages into single orders. Never raises."""
    return [it for delivery in deliveries for it in _split(delivery)]


def sort_letters(dead_orders: Iterable[DeadOrder], known: Mapping[str, KnownOrder]) -> SortedLetters:
    """What to park and what to forward. `known`: their stored orders, by id."""
    found = SortedLetters()
    for it in dead_orders:
        stored = known.get(it.order.id) if it.order is not None else None
        if it.order is None:
            found.parked[it.stage].append(it.letter)
        elif stored is None or not stored.is_the_same(it.order):
            found.parked[Stage.PERSIST].append(it.letter)
        elif stored.is_decided:
            continue
        elif it.stage is Stage.STOCK:
            found.parked[Stage.STOCK].append(it.letter)
        else:
            found.forwarded.append(it.letter)
    return found


def _split(delivery: Delivery) -> list[DeadOrder]:
    x_death = XDeath.of(delivery.deaths)
    stage = _STAGE_OF.get(x_death.queue, Stage.PERSIST)
    try:
        if delivery.schema not in SCHEMAS:
            raise InvalidOrder("of another schema")
        elements = split_body(delivery.body)
    except InvalidOrder:
        whole = DeadLetter(None, x_death.reason, x_death.detail, delivery.body, delivery.schema)
        return [DeadOrder(whole, stage, None)]
    return [_dead_order(element, x_death, stage, delivery.schema) for element in elements]


def _dead_order(element: bytes, x_death: XDeath, stage: Stage, schema: object) -> DeadOrder:
    order_id = None if stage is Stage.CANCEL else id_in(element)
    letter = DeadLetter(order_id, x_death.reason, x_death.detail, b"[" + element + b"]", schema)
    if stage is Stage.CANCEL:
        return DeadOrder(letter, stage, None)
    try:
        return DeadOrder(letter, stage, decode_order(element))
    except InvalidOrder:
        return DeadOrder(letter, stage, None)


# ── I/O below


class DeadLetterConsumer:
    def __init__(self, consumer: BatchConsumer, database: Database, publisher: Publisher, health: Health) -> None:
        """`consumer`: of orders.dead. `database`: not shared. `publisher`: to orders.created."""
        self._consumer, self._database, self._publisher, self._health = consumer, database, publisher, health

    @classmethod
    def of(cls, settings: PipelineSettings, health: Health, publisher: Publisher) -> "DeadLetterConsumer":
        """`health`: reports as PART, an optional part: orders are stored without this consumer."""
        consumer = BatchConsumer(settings, health, PART, topology.declare_dead, LIMITS, PREFETCH, declares_again=True)
        # A connection of its own: neither parking nor counting holds up a batch of orders.
        own = Health(f"{health.service} {PART}", DATABASE)
        return cls(consumer, Database(settings.database_url, own, _prepare), publisher, health)

    async def run(self) -> None:
        """Consume, park and count until cancelled. After a bug it does none of it, and messages stay in orders.dead."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._consumer.run())
                tasks.create_task(self._park_all())
                tasks.create_task(count_waiting_letters(self._database))
        except Exception:
            log.critical("bug in the consumer of orders.dead; nothing of it is parked any more", exc_info=True)
            self._health.down(PART, "a bug, see the log: what the broker gives up on stays in orders.dead")
            # The process goes on: orders are stored without this consumer, and a restart would meet the same bug.
            await asyncio.Event().wait()
        finally:
            await self._database.close()

    async def _park_all(self) -> None:
        while await self.run_once() is not None:
            pass

    async def run_once(self) -> int | None:
        """Process one batch, from its close to its ack. Returns the number of new letters; None when drained.

        Forwarded orders are confirmed before the ack, and may be forwarded twice.
        """
        batch = await self._consumer.next()
        if batch is None:
            return None
        dead_orders = split_messages(batch.deliveries)

        async def work(connection: Connection) -> SortedLetters:
            return await _park(connection, dead_orders)

        found = await self._database.until_it_works(work, self._consumer.queue_name)
        await self._forward(found.forwarded)
        letters = sum(map(len, found.parked.values()))
        if letters:
            await self._database.notify(VERDICTS)  # they are FAILED, and no later stage will notify
        await self._consumer.settle(batch)
        _tell(batch.deliveries, found.parked)
        return letters

    async def _forward(self, letters: Sequence[DeadLetter]) -> None:
        if not letters:
            return
        body, schema = join_bodies([it.body for it in letters]), latest_schema([it.schema for it in letters])
        never = asyncio.Event()  # `run` ends by being cancelled
        await forward(self._publisher, body, len(letters), schema, queue=self._consumer.queue_name, stop=never)
        log.error("given up by the broker, and passed on: stored, and not decided", orders=len(letters))


async def _prepare(_: Connection) -> None:
    """Nothing: parking needs no temporary tables."""


async def _park(connection: Connection, dead_orders: Sequence[DeadOrder]) -> SortedLetters:
    """Park in one commit. Safe to repeat. Returns the letters that are new, and those to forward."""
    ids = [it.order.id for it in dead_orders if it.order is not None]
    async with connection.transaction():
        rows = await connection.fetch(_KNOWN, ids)
        known = {row["id"]: _known_order(row) for row in rows}
        found = sort_letters(dead_orders, known)
        parked = {stage: await park(connection, stage, letters) for stage, letters in found.parked.items()}
        return SortedLetters(parked, found.forwarded)


def _known_order(row: Any) -> KnownOrder:
    return KnownOrder(tuple(zip(row["products"], row["quantities"], strict=True)), row["is_decided"])


def _tell(deliveries: Sequence[Delivery], parked: Mapping[Stage, Sequence[DeadLetter]]) -> None:
    for stage, letters in parked.items():
        count_parked(stage, letters)
        for reason, detail in {(it.reason, it.detail) for it in letters}:
            log.error("given up by the broker, and parked", stage=stage, reason=reason, detail=detail)
    log.info("dead letters", messages=len(deliveries), parked={stage: len(it) for stage, it in parked.items()})
