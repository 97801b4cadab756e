"""The registry of all metrics, of every process. A name that is not here does not exist.

Per-order histograms take a batch at a time: prometheus-client's own `observe` walks its buckets in Python for each
value (2 to 3 µs, as much as encoding the order twice).
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

_LATENCY_BUCKETS_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    60.0,
    600.0,
)
_SIZE_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)


class BatchHistogram(Collector):
    """A Prometheus histogram that takes many values at once. One label set, no exemplars."""

    def __init__(self, name: str, documentation: str, buckets: tuple[float, ...]) -> None:
        self._name, self._documentation, self._bounds = name, documentation, buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        REGISTRY.register(self)

    def observe_all(self, values: Iterable[float]) -> None:
        counts, bounds = self._counts, self._bounds
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            self._sum += value

    def observe_since(self, moments: Iterable[datetime]) -> None:
        """Observe the seconds from each moment until now."""
        now = datetime.now(UTC).timestamp()
        self.observe_all([now - moment.timestamp() for moment in moments])

    def collect(self) -> Iterator[HistogramMetricFamily]:
        bounds = [*map(str, self._bounds), "+Inf"]
        cumulative = list(zip(bounds, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(self._name, self._documentation, buckets=cumulative, sum_value=self._sum)


class SignalSafeCounter(Collector):
    """A re-entrant Prometheus counter with one label: a count may interrupt another.

    prometheus-client's own takes a lock that is not re-entrant, and a garbage collection under it may log. Two threads
    that count at the same moment may lose one count.
    """

    def __init__(self, name: str, documentation: str, label: str) -> None:
        self._name, self._documentation, self._label = f"headrace_{name}", documentation, label
        self._counts: dict[str, int] = {}
        REGISTRY.register(self)

    def count(self, value: str, lines: int = 1) -> None:
        self._counts[value] = self._counts.get(value, 0) + lines

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._documentation, labels=[self._label])
        for value, count in list(self._counts.items()):
            family.add_metric([value], count)
        yield family


def _counter(name: str, documentation: str, *labels: str) -> Counter:
    return Counter(f"headrace_{name}", documentation, labels, registry=REGISTRY)


def _gauge(name: str, documentation: str, *labels: str) -> Gauge:
    return Gauge(f"headrace_{name}", documentation, labels, registry=REGISTRY)


def _histogram(name: str, documentation: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    return Histogram(f"headrace_{name}", documentation, labels, buckets=buckets, registry=REGISTRY)


# ── ingest_api

ORDERS_ACCEPTED = _counter(
    "orders_accepted", "Orders that the broker confirmed. Each is answered 202 if its client is still there."
)
ORDERS_REFUSED = _counter("orders_refused", "Orders that were not answered 202, by the problem's name.", "reason")
# On both APIs. A run of `unauthenticated` is a client whose key was revoked, or someone guessing keys.
REQUESTS_DENIED = _counter(
    "requests_denied", "Requests that an API key's guard kept out, by the problem's name.", "reason"
)
ORDERS_IN_FLIGHT = _gauge("orders_in_flight", "Orders that wait for the broker's confirm.")
BYTES_IN_FLIGHT = _gauge("bytes_in_flight", "Encoded size of the orders that wait for the broker's confirm.")
CLOCK_STEPS = _counter("clock_steps", "Times that the clock was found to have been set back, by more than a second.")
CONFIRM_SECONDS = _histogram(
    "confirm_seconds", "From publish to confirm, one value a message.", _LATENCY_BUCKETS_S, "exchange"
)
GROUP_SIZE = _histogram("group_commit_orders", "Orders in one published message.", _SIZE_BUCKETS)
IDEMPOTENT_REQUESTS = _counter(
    "idempotent_requests",
    "Orders with an Idempotency-Key: first, doubtful (after an unknown outcome), replayed, in_flight, reused,"
    " unremembered (Redis was not asked).",
    "result",
)
IDEMPOTENCY_LOSSES = _counter(
    "idempotency_losses",
    "Times that Redis was found to have forgotten Idempotency-Keys: emptied, restarted, failed over, full.",
)
REDIS_EVICTIONS = _counter("redis_evictions", "Keys that Redis dropped for want of memory, while we looked.")
ORDER_LIST_READS = _counter("order_list_reads", "Reads of first pages through the cache: hit, miss, error.", "result")
VERDICT_WAITERS = _gauge("verdict_waiters", "Requests that wait for the verdict on an order.")
VERDICT_ROUNDS = _counter("verdict_rounds", "Questions to PostgreSQL for all who wait: notification, poll.", "because")
# ingest_api reports these, so that they are known even while a worker is frozen: see ingest_api/reads/backlog.py.
BACKLOG_ORDERS = _gauge(
    "backlog_orders",
    "Orders that this process accepted and that wait: in orders.accepted for their row, in orders.created for their"
    " verdict. Those that a worker holds are among them.",
    "queue",
)
BACKLOG_MESSAGES = _gauge("backlog_messages", "The messages that these orders came in.", "queue")
BACKLOG_OLDEST_SECONDS = _gauge("backlog_oldest_seconds", "How long the oldest of them has waited.", "queue")
CATALOGUE_LOOKUPS = _counter("catalogue_lookups", "Where the price of an order came from.", "source")
PLACES_TAKEN = _gauge(
    "places_taken", "Places that are taken, of those that clients share, by what they are for.", "what"
)
PLACES_REFUSED = _counter(
    "places_refused",
    "Requests that were refused because all places, or their client's share of them, were taken.",
    "what",
)
CATALOGUE_SIZE = _gauge("catalogue_products", "Products held in the catalogue, unknown ones included.")

# ── persist_worker and product_consumer

BATCH_ORDERS = _histogram("batch_orders", "Orders in one batch.", _SIZE_BUCKETS, "queue")
BATCHES_CLOSED = _counter(
    "batches_closed", "Batches, by what closed them: idle, linger, size, bytes, drain.", "queue", "closed_by"
)
BATCH_SECONDS = _histogram(
    "batch_seconds", "From a batch's close to its ack, if it was acked.", _LATENCY_BUCKETS_S, "queue"
)
BATCH_RETRIES = _counter(
    "batch_retries",
    "Attempts at a batch that failed for a passing reason: SQLSTATE, error, or what became of order.created.",
    "queue",
    "reason",
)
REDELIVERIES = _counter("redeliveries", "Messages that the broker says it had delivered before.", "queue")
STALE_BATCHES = _counter(
    "stale_batches", "Batches done after their channel had died, or given back: not acked, redelivered.", "queue"
)
GIVEN_BACK = _counter(
    "given_back", "Times that all that was unacknowledged was given back: a batch had been held for too long.", "queue"
)
CONSUMER_STALLED = _gauge(
    "consumer_stalled", "1 while messages are ready and nothing is in hand, but none is delivered.", "queue"
)
QUEUE_DEPTH = _gauge("queue_depth_messages", "Messages ready in the queue, when last asked.", "queue")
PARKED = _counter(
    "orders_parked", "Rows written to dead_letters: poison that comes again counts once.", "stage", "reason"
)

ROWS_STORED = _counter("orders_stored", "Rows written to orders.")
DUPLICATES = _counter("orders_duplicate", "Orders that came again and were dropped, by stage.", "stage")
COPY_PATH = _counter("copy_path", "Batches by the way they took into orders: direct, staging, bisect.", "path")
ACCEPT_TO_STORED = BatchHistogram(
    "headrace_accept_to_stored_seconds",
    "From acceptance to commit in orders, of rows that are new.",
    _LATENCY_BUCKETS_S,
)
ORDERS_DECIDED = _counter("orders_decided", "Verdicts written to stock_ledger.", "outcome", "reason")
ACCEPT_TO_DECIDED = BatchHistogram(
    "headrace_accept_to_decided_seconds", "From acceptance to commit of the verdict.", _LATENCY_BUCKETS_S
)

# ── the cache, product_consumer and product_api

CACHE_READS = _counter("cache_reads", "Reads of products through the cache: hit, miss, error.", "result")
CACHE_FILLS = _counter(
    "cache_fills", "Fills of the cache: stored, fenced (a newer version was there), error.", "result"
)
CACHE_BUSTS = _counter(
    "cache_busts",
    "Busts of the cache: done, owed (Redis was away; made up for later), forgotten (too many owed; the TTL heals).",
    "result",
)
CACHE_LOSSES = _counter(
    "cache_losses", "Times that Redis was found to have forgotten everything: emptied, or started again without data."
)
PRODUCT_EVENTS = _counter(
    "product_events", "Events on products_exchange, by outcome; unroutable: nobody listens.", "key", "outcome"
)

# ── every HTTP server

CONNECTIONS = _gauge(
    "connections",
    "Connections of clients: open, and of these unfinished, which have sent a part of a request.",
    "state",
)
CONNECTIONS_CLOSED = _counter(
    "connections_closed",
    "Connections closed on their clients: head_deadline and body_deadline (too slow), unread (an answer), room (for"
    " another, when all places were taken), surplus (no place was free).",
    "reason",
)
ACCEPT_PAUSES = _counter(
    "accept_pauses",
    "Times that no new connections were taken, because few file descriptors were left or the system gave none.",
)

# ── every process

BROKER_RECONNECTS = _counter("broker_connection_losses", "Connections to the broker that were lost.", "connection")
BROKER_REFUSES_WITH_ROOM = _gauge(
    "broker_refuses_with_room",
    "1 while the broker refuses messages although the queue is empty: no overload, but a fault that only a restart of"
    " the broker repairs.",
    "connection",
)
REDECLARATIONS = _counter(
    "broker_redeclarations", "Times that all was declared again because no queue took a message.", "connection"
)
CLOCK_SKEW = _gauge(
    "clock_skew_seconds", "How far the clock of this process is ahead of PostgreSQL's, at least; 0 if it may be right."
)
LOG_LINES_DROPPED = SignalSafeCounter(
    "log_lines_dropped",
    "Log lines that were not written: unwritable (disk full, pipe closed), stuck (nobody reads, or the disk hangs),"
    " flood (too many of a kind), unrenderable (a bug).",
    "because",
)
SERVER_FAULTS = _counter(
    "server_faults",
    "Times that PostgreSQL or Redis could not do the work, by cause: read_only, unreachable, no_answer, ...",
    "server",
    "cause",
)
PART_UP = _gauge(
    "part_up",
    "1 while a part that the service needs or uses is there; 0 while not: /health says why.",
    "service",
    "part",
)
LONG_WAITS = _gauge(
    "long_waits", "1 while the part waits for longer than 5 s for what /health names; else 0.", "service", "part"
)
UNAVAILABLE = _counter("requests_unavailable", "Requests that were answered 503, by the problem's name.", "reason")
