"""The application: routes as data, and the lifespan that makes what they need."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import structlog
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.routing import Route

from database.clock import watch_clock
from database.log_follower import LogFollower
from database.sessions import Pool, StoreUnavailable, make_pool
from ingest_api.documents.documents import documents
from ingest_api.documents.operations import OPERATIONS
from ingest_api.events.endpoint import ListEvents
from ingest_api.events.reader import EventReader
from ingest_api.idempotency.accepted_orders import AcceptedOrders
from ingest_api.idempotency.claims import Claims
from ingest_api.idempotency.keyed import KeyedOrders
from ingest_api.idempotency.trust_judge import BrokerMark, TrustJudge
from ingest_api.intake.accept import AcceptOrder, Intake
from ingest_api.intake.bulk import AcceptBulk
from ingest_api.intake.cancel import CancelOrder
from ingest_api.intake.group_commit import OF_CANCELLATIONS, GroupCommit
from ingest_api.prices.catalogue import Catalogue
from ingest_api.prices.product_source import EVENTS, ProductSource, follow_events
from ingest_api.reads import backlog
from ingest_api.reads.lookup import OrderLookup
from ingest_api.reads.order_lists import OrderLists
from ingest_api.reads.stored_orders import LIST_SETTINGS, ReadLimits, StoredOrders
from ingest_api.reads.verdicts import PART as VERDICTS
from ingest_api.reads.verdicts import Verdicts
from ingest_api.settings import IngestSettings
from pipeline.broker.publisher import Publisher
from pipeline.cache import product_cache, redis_link
from pipeline.cache.order_list_cache import OrderListCache
from pipeline.contract import topology
from pipeline.contract.order_ids import OrderIds
from pipeline.process import lifecycle, metrics
from pipeline.process.health import Health
from pipeline.process.shares import Shares
from pipeline.process.turns import Turns
from web.access.clients import Guard
from web.access.keys import Keys, hosts_of, load_keys
from web.access.rate_limit import RateLimits
from web.requests.routes import make_routes
from web.serving.application import make_api

log = structlog.get_logger()

BROKER, CANCELLATIONS, REDIS, EVENT_LOG = "broker", "cancellations", "redis", "event log"


def make_app(settings: IngestSettings, stop: asyncio.Event) -> Starlette:
    """The Starlette application. Nothing connects before its lifespan begins. Raises Misconfigured.

    `stop`: once it is set, no request waits for a verdict any longer.
    """
    keys = load_keys(settings)
    # Readiness is the broker alone: without the others, orders for known products are still accepted.
    health = Health("ingest_api", BROKER, optional=(CANCELLATIONS, EVENTS, VERDICTS, EVENT_LOG, REDIS))
    return make_api(
        health,
        partial(_running, settings, health, keys, stop),
        StoreUnavailable,
        keys,
        documents(settings.accepted_status, settings.public_path, settings.products_url),
        hosts_of(settings, keys),
    )


@asynccontextmanager
async def _running(
    settings: IngestSettings, health: Health, keys: Keys, stop: asyncio.Event
) -> AsyncIterator[list[Route]]:
    redis = redis_link.connect(settings.redis_url)
    prices = _pool(settings, settings.database_price_connections)
    single_orders = _pool(settings, settings.database_order_connections)
    order_lists = _pool(settings, settings.database_list_connections, LIST_SETTINGS)
    retries = _pool(settings, settings.database_retry_connections)
    old_events = _pool(settings, settings.database_event_connections)
    async with redis, prices, single_orders, order_lists, retries, old_events:
        cache = product_cache.ProductCache(redis, settings.namespace)
        source = ProductSource(cache, prices, settings.database_timeout_s, settings.catalogue_ttl_s)
        catalogue = Catalogue(settings, source.load)
        waiting_orders = backlog.Backlog()
        ids = OrderIds(settings.order_id_keys, on_step=_tell_step)
        claims = _claims(settings, redis)
        accepted = AcceptedOrders(retries, settings.database_timeout_s)
        mark = BrokerMark(claims)
        publisher = Publisher(settings, health, BROKER, topology.declare_accepted, mark.meet)
        commits = _group_commit(settings, publisher, waiting_orders)
        # A publisher of its own: a full queue of cancellations says nothing of the queue of orders.
        cancel_publisher = Publisher(settings, health, CANCELLATIONS, topology.declare_cancel_requested)
        cancels = _cancel_commit(settings, cancel_publisher)
        events = follow_events(settings, health, catalogue)
        publishing = (commits.run() for _ in range(settings.publish_window))
        lists = OrderListCache(redis, settings.namespace)
        verdicts = _verdicts(settings, health, lists)
        orders = StoredOrders(single_orders, order_lists, _read_limits(settings))
        judge = TrustJudge(ids, claims, accepted, publisher.look, mark, remember_s=settings.idempotency_remember_s)
        keyed = KeyedOrders(
            ids,
            claims,
            accepted,
            judge,
            settings.namespace,
            status=settings.accepted_status,
            stored_within_s=settings.idempotency_stored_within_s,
        )
        event_log = _event_log(settings, health, old_events)
        waiting = (verdicts.run(), verdicts.end_with(stop), event_log.run())
        watching = (
            cache.watch(health, REDIS),
            watch_clock(order_lists, settings.database_timeout_s),
            backlog.watch(waiting_orders, orders),
        )
        cancelling = (cancel_publisher.run(), cancels.run())
        parts = (events, claims.run(), judge.run(), *watching, *publishing, *cancelling, *waiting)
        async with lifecycle.background(publisher.run(), *parts, stop=stop):
            bulks = Shares("orders of bulks", settings.max_bulk_orders)
            intake = Intake(catalogue, ids, commits, keyed, RateLimits(), bulks, settings.accepted_status)
            lookup = OrderLookup(orders, OrderLists(lists, orders), verdicts, ids, keys.guard)
            cancel = CancelOrder(lookup, verdicts, cancels, intake.limits, keys.guard)
            list_events = _list_events(settings, event_log, keys.guard, stop)
            yield _routes(settings, intake, cancel, lookup, list_events, keys.guard)
            await commits.drain()
            await cancels.drain()
            await claims.drain()


def _tell_step(back_s: float) -> None:
    metrics.CLOCK_STEPS.inc()
    log.warning("the clock was set back; order ids continue from the latest time that it showed", by_s=round(back_s, 3))


def _routes(
    settings: IngestSettings,
    intake: Intake,
    cancel: CancelOrder,
    lookup: OrderLookup,
    list_events: ListEvents,
    guard: Guard,
) -> list[Route]:
    endpoints = {
        "acceptOrder": AcceptOrder(intake, settings.max_body_bytes),
        "acceptOrders": AcceptBulk(intake, settings.max_bulk_bytes),
        "cancelOrder": cancel,
        "listOrders": lookup.list_orders,
        "listOrdersOfProduct": lookup.of_product,
        "getOrder": lookup.get,
        "listEvents": list_events.get,
    }
    return make_routes(OPERATIONS, endpoints, guard)


def _pool(settings: IngestSettings, size: int, sessions: Mapping[str, str] | None = None) -> Pool:
    return make_pool(settings.database_url, "ingest_api", size, settings.database_timeout_s, sessions)


def _read_limits(settings: IngestSettings) -> ReadLimits:
    return ReadLimits(
        order_connections=settings.database_order_connections,
        list_connections=settings.database_list_connections,
        max_orders=settings.max_order_reads,
        max_lists=settings.max_list_reads,
        timeout_s=settings.database_timeout_s,
    )


def _verdicts(settings: IngestSettings, health: Health, lists: OrderListCache) -> Verdicts:
    return Verdicts(
        settings.database_url,
        lists,
        health,
        max_waiting=settings.max_waiting_reads,
        timeout_s=settings.database_timeout_s,
    )


def _event_log(settings: IngestSettings, health: Health, pool: Pool) -> LogFollower:
    return LogFollower(
        settings.database_url,
        health,
        EVENT_LOG,
        pool=pool,
        timeout_s=settings.database_timeout_s,
        min_interval_s=settings.event_interval_s,
    )


def _list_events(settings: IngestSettings, event_log: LogFollower, guard: Guard, stop: asyncio.Event) -> ListEvents:
    places = Shares("pages of old events", settings.max_event_reads)
    turns = Turns(places, settings.database_event_connections, settings.database_timeout_s)
    return ListEvents(
        EventReader(event_log, turns),
        guard,
        max_waiting=settings.max_waiting_reads,
        max_streams=settings.max_event_streams,
        stopped=stop,
    )


def _claims(settings: IngestSettings, redis: Redis) -> Claims:
    return Claims(
        redis,
        settings.namespace,
        remember_s=settings.idempotency_remember_s,
        in_flight_s=settings.idempotency_in_flight_s,
        max_waiting=settings.max_waiting_orders,
        max_bytes_per_client=settings.idempotency_max_bytes_per_client,
    )


def _group_commit(settings: IngestSettings, publisher: Publisher, waiting: backlog.Backlog) -> GroupCommit:
    return GroupCommit(
        publisher,
        topology.ORDERS_EXCHANGE,
        topology.ORDER_ACCEPTED,
        max_group_orders=settings.max_group_orders,
        max_group_bytes=settings.max_group_bytes,
        max_waiting_orders=settings.max_waiting_orders,
        max_waiting_bytes=settings.max_waiting_bytes,
        overlap_orders=settings.publish_overlap_orders,
        overlap_after_s=settings.publish_overlap_after_s,
        timeout_s=settings.confirm_timeout_s,
        on_confirmed=waiting.confirmed,
    )


def _cancel_commit(settings: IngestSettings, publisher: Publisher) -> GroupCommit:
    """One message in flight: few orders are cancelled."""
    return GroupCommit(
        publisher,
        topology.ORDERS_EXCHANGE,
        topology.ORDER_CANCEL_REQUESTED,
        max_group_orders=settings.max_group_orders,
        max_group_bytes=settings.max_group_bytes,
        max_waiting_orders=settings.max_waiting_orders,
        max_waiting_bytes=settings.max_waiting_bytes,
        overlap_orders=settings.publish_overlap_orders,
        overlap_after_s=settings.publish_overlap_after_s,
        timeout_s=settings.confirm_timeout_s,
        counts=OF_CANCELLATIONS,
    )
