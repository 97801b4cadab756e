"""Where the catalogue asks: Redis, then PostgreSQL. And where it listens: the product events."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

import msgspec
import structlog
from aio_pika.abc import AbstractConnection
from aiormq.abc import DeliveredMessage

from database.sessions import Pool, StoreUnavailable, reading
from ingest_api.catalogue import Catalogue
from pipeline import metrics, topology
from pipeline.broker import answering, ends_within, keep_connected, when_lost
from pipeline.health import Health
from pipeline.product_cache import CachedProduct, ProductCache
from pipeline.product_events import ProductEvent, decode_event
from pipeline.settings import PipelineSettings

log = structlog.get_logger()

EVENTS = "product events"

# How long events may pass unheard after somebody has deleted what brings them. Prices have their TTL meanwhile.
_BIND_EVERY_S = 10.0

_PRODUCTS = """
    SELECT id::text, version, price, qty, deleted_at IS NOT NULL AS deleted FROM products WHERE id = ANY($1::uuid[])
"""
MAX_AT_ONCE = 500


class _CachedBody(msgspec.Struct):
    """The part of a cached product that the catalogue needs."""

    price: Decimal
    qty: int


class _Question(NamedTuple):
    product_id: str
    known_version: int
    answer: "asyncio.Future[ProductEvent | None]"


class ProductSource:
    """`load` for a Catalogue.

    While one question is on its way, what is asked collects, and is the next question. What sells becomes old all at
    once: a thousand look-ups one by one held ingest_api up for 2 s after each TTL (measured, at 1,000 orders/s for
    1,000 products).
    """

    def __init__(self, cache: ProductCache, pool: Pool, timeout_s: float) -> None:
        self._cache, self._pool, self._timeout_s = cache, pool, timeout_s
        self._questions: list[_Question] = []
        self._asking: asyncio.Task[None] | None = None

    async def load(self, product_id: str, known_version: int) -> ProductEvent | None:
        """The product as it is now, or None. Raises StoreUnavailable when PostgreSQL cannot be asked.

        A cached product older than `known_version` was not busted when it should have been.
        """
        question = _Question(product_id, known_version, asyncio.get_running_loop().create_future())
        self._questions.append(question)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all())
        try:
            async with asyncio.timeout(self._timeout_s):  # of which a part may pass before it is on its way
                return await question.answer
        except TimeoutError:
            raise StoreUnavailable("no answer in time") from None

    async def _ask_all(self) -> None:
        while self._questions:
            asked, self._questions = self._questions[:MAX_AT_ONCE], self._questions[MAX_AT_ONCE:]
            waiting = [it for it in asked if not it.answer.done()]
            try:
                found = await self._find(waiting)
            except Exception as error:
                _fail(waiting, error)
            else:
                _answer(waiting, found)

    async def _find(self, questions: Sequence[_Question]) -> dict[str, ProductEvent]:
        cached = await self._cache.read_many(it.product_id for it in questions)
        found = {}
        for product_id, known_version, _ in questions:
            product = cached.get(product_id)
            if product is None or product.version < known_version:
                continue
            if (state := _from_cache(product_id, product)) is not None:
                found[product_id] = state
        metrics.CATALOGUE_LOOKUPS.labels("redis").inc(len(found))
        if missing := [it.product_id for it in questions if it.product_id not in found]:
            async with reading(self._pool, self._timeout_s) as connection:
                rows = await connection.fetch(_PRODUCTS, missing)
            metrics.CATALOGUE_LOOKUPS.labels("postgres").inc(len(missing))
            found.update((row["id"], ProductEvent(*row)) for row in rows)
        return found


async def follow_events(settings: PipelineSettings, health: Health, catalogue: Catalogue) -> None:
    """Keep `catalogue` fresh by the product events, until cancelled."""

    async def on_event(message: DeliveredMessage) -> None:
        try:
            catalogue.apply(decode_event(message.body))
        except msgspec.DecodeError as error:
            log.warning("product event ignored", error=str(error), body=message.body[:200])

    async def session(connection: AbstractConnection) -> None:
        async with answering():
            channel = await connection.channel(publisher_confirms=False)
            queue = await topology.declare_product_events(channel)
        lost = when_lost(connection, channel)
        underlay = await channel.get_underlay_channel()
        await underlay.basic_consume(queue.name, on_event, no_ack=True)
        catalogue.distrust()  # whatever happened before the queue was bound was not heard
        health.up(EVENTS)
        while not await ends_within(lost, _BIND_EVERY_S):
            async with answering():
                await topology.bind_product_events(channel, queue)

    await keep_connected(settings, health, EVENTS, session)


def _from_cache(product_id: str, cached: CachedProduct) -> ProductEvent | None:
    """None if the body is not one of product_api's: Redis is no authority, so PostgreSQL is asked."""
    try:
        body = msgspec.json.decode(cached.body, type=_CachedBody)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("cached product ignored", product_id=product_id, error=str(error))
        return None
    return ProductEvent(product_id, cached.version, body.price, body.qty)


def _answer(questions: Sequence[_Question], found: dict[str, ProductEvent]) -> None:
    for product_id, _, answer in questions:
        if not answer.done():  # or nobody waits any longer
            answer.set_result(found.get(product_id))


def _fail(questions: Sequence[_Question], error: Exception) -> None:
    for question in questions:
        if not question.answer.done():
            question.answer.set_exception(error)
