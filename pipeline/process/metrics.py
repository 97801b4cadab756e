"""The registry of all metrics of all processes. No metric is defined elsewhere.

Histograms with one value for each order take a batch at a time. prometheus-client's `observe` walks its buckets in
Python for each value, which takes 2 to 3 µs, as much as encoding the order twice.
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
    """A re-entrant Prometheus counter with one label: one count may interrupt another.

    prometheus-client's counter takes a lock that is not re-entrant, and a garbage collection under it may log. Two
    threads that count at the same moment may lose one count.
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
    "orders_accepted", "Orders that the broker confirmed. Each is answered 202 if its client is still connected."
)
ORDERS_REFUSED = _counter("orders_refused", "Orders that were not answered 202, by the problem's name.", "reason")
# On both APIs. Many `unauthenticated` in a row: a client uses a revoked key, or someone guesses keys.
REQUESTS_DENIED = _counter(
    "requests_denied", "Requests refused for their API key, or for the lack of one, by the problem's name.", "reason"
)
CANCELLATIONS_ACCEPTED = _counter("cancellations_accepted", "Cancellations that the broker confirmed.")
CANCELLATIONS_IN_FLIGHT = _gauge("cancellations_in_flight", "Cancellations that wait for the broker's confirm.")
ORDERS_IN_FLIGHT = _gauge("orders_in_flight", "Orders that wait for the broker's confirm.")
BYTES_IN_FLIGHT = _gauge("bytes_in_flight", "Encoded size of the orders that wait for the broker's confirm.")
CLOCK_STEPS = _counter("clock_steps", "Times that the clock was found set back by more than a second.")
CONFIRM_SECONDS = _histogram(
    "confirm_seconds", "Seconds from publish to confirm, one value for each message.", _LATENCY_BUCKETS_S, "exchange"
)
GROUP_SIZE = _histogram("group_commit_orders", "Orders in one published message.", _SIZE_BUCKETS)
IDEMPOTENT_REQUESTS = _counter(
    "idempotent_requests",
    "Requests with an Idempotency-Key, by result: first, doubtful (an earlier outcome is unknown), replayed, in_flight,"
    " reused, unremembered (Redis was not asked).",
    "result",
)
IDEMPOTENCY_LOSSES = _counter(
    "idempotency_losses",
    "Times that Redis was found to have forgotten Idempotency-Keys: emptied, restarted, failed over, full.",
)
REDIS_EVICTIONS = _counter(
    "redis_evictions", "Keys that Redis evicted for lack of memory while this process was running."
)
ORDER_LIST_READS = _counter(
    "order_list_reads", "Reads of first pages of order lists through the cache: hit, miss, error.", "result"
)
VERDICT_WAITERS = _gauge("verdict_waiters", "Orders whose verdict a request waits for.")
VERDICT_ROUNDS = _counter(
    "verdict_rounds", "Queries to PostgreSQL for all waiting requests, by cause: notification, poll.", "because"
)
EVENT_LOG_OFFSET = _gauge(
    "event_log_offset", "The end of the event log, as far as this process has followed it: a count of all events."
)
EVENT_LOG_ROUNDS = _counter(
    "event_log_rounds", "Looks at the event log for all that follow it, by cause: notification, poll.", "because"
)
EVENT_LAG_SECONDS = BatchHistogram(
    "headrace_event_lag_seconds",
    "From the verdict on an order, or its parking, until this process can pass on the event. Of new events, while"
    " somebody follows them.",
    _LATENCY_BUCKETS_S,
)
EVENTS_ANSWERED = _counter("events_answered", "Events given to clients, by way: page, stream.", "way")
EVENT_STREAMS_ENDED = _counter(
    "event_streams_ended",
    "Streams of events that have ended, by cause: left (the client), unread (the client was too slow), stopped (the"
    " process), done (its key or its cursor became invalid).",
    "why",
)
# ingest_api reports these, so that they are known even while a worker is frozen (ingest_api/reads/backlog.py).
BACKLOG_ORDERS = _gauge(
    "backlog_orders",
    "Orders that this process accepted and that still wait: in orders.accepted for their row, in orders.created for"
    " their verdict. It includes orders that a worker holds.",
    "queue",
)
BACKLOG_MESSAGES = _gauge("backlog_messages", "Messages that hold the orders of headrace_backlog_orders.", "queue")
BACKLOG_OLDEST_SECONDS = _gauge(
    "backlog_oldest_seconds", "How long the oldest order of headrace_backlog_orders has waited.", "queue"
)
CATALOGUE_LOOKUPS = _counter("catalogue_lookups", "Prices of orders, by where they came from.", "source")
PLACES_TAKEN = _gauge(
    "places_taken", "Places in use, of the limited number that clients share, by their purpose.", "what"
)
PLACES_REFUSED = _counter(
    "places_refused",
    "Requests refused because all places, or their client's share of them, were in use.",
    "what",
)
CATALOGUE_SIZE = _gauge(
    "catalogue_products", "Products in the in-process catalogue. It includes ids that are known not to exist."
)

# ── persist_worker and product_consumer

BATCH_ORDERS = _histogram("batch_orders", "Orders in one batch.", _SIZE_BUCKETS, "queue")
BATCHES_CLOSED = _counter(
    "batches_closed", "Batches, by what closed them: idle, linger, size, bytes, drain.", "queue", "closed_by"
)
BATCH_SECONDS = _histogram(
    "batch_seconds",
    "Seconds from a batch's close to its ack. Only batches that were acknowledged.",
    _LATENCY_BUCKETS_S,
    "queue",
)
BATCH_RETRIES = _counter(
    "batch_retries",
    "Attempts at a batch that failed for a transient reason: an SQLSTATE, an error, or the outcome of publishing"
    " order.created.",
    "queue",
    "reason",
)
REDELIVERIES = _counter("redeliveries", "Messages that the broker marks as redelivered.", "queue")
STALE_BATCHES = _counter(
    "stale_batches",
    "Batches finished after their channel had closed, or after they were given back. They are redelivered.",
    "queue",
)
GIVEN_BACK = _counter(
    "given_back",
    "Times that a worker gave back all unacknowledged messages, because it had held a batch for too long.",
    "queue",
)
CONSUMER_STALLED = _gauge(
    "consumer_stalled", "1 while messages are ready and the idle consumer gets none, else 0.", "queue"
)
QUEUE_DEPTH = _gauge("queue_depth_messages", "Ready messages in the queue at the last look.", "queue")
PARKED = _counter(
    "orders_parked", "Rows written to dead_letters. An order that is parked again counts once.", "stage", "reason"
)
DEAD_LETTERS_WAITING = _gauge(
    "dead_letters_waiting",
    "Dead letters that wait for a replay or a discard, when last counted; 10,000 at most in all. Each persist_worker"
    " counts all of them. Without letters there is no sample.",
    "stage",
    "reason",
)

ROWS_STORED = _counter("orders_stored", "Orders written to the database.")
DUPLICATES = _counter("orders_duplicate", "Redelivered or repeated orders that were dropped, by stage.", "stage")
COPY_PATH = _counter("copy_path", "Batches, by how they were written to orders: direct, staging, bisect.", "path")
ACCEPT_TO_STORED = BatchHistogram(
    "headrace_accept_to_stored_seconds",
    "Seconds from acceptance to the commit in orders, for new rows.",
    _LATENCY_BUCKETS_S,
)
ORDERS_DECIDED = _counter("orders_decided", "Verdicts written to stock_ledger.", "outcome", "reason")
CANCELLATIONS = _counter(
    "cancellations",
    "Settled cancellations, by outcome: before_verdict (the order takes no stock), returned (its stock went back),"
    " too_late (the order was FAILED or cancelled already), not_yours (another client's order).",
    "outcome",
)
ACCEPT_TO_DECIDED = BatchHistogram(
    "headrace_accept_to_decided_seconds", "Seconds from acceptance to the commit of the verdict.", _LATENCY_BUCKETS_S
)

# ── the cache, product_consumer and product_api

CACHE_READS = _counter("cache_reads", "Reads of products through the cache: hit, miss, error.", "result")
CACHE_FILLS = _counter(
    "cache_fills", "Fills of the product cache: stored, fenced (the cache had a newer version), error.", "result"
)
CACHE_BUSTS = _counter(
    "cache_busts",
    "Busts of the product cache: done, owed (Redis was away; repeated later), forgotten (too many were owed; the TTL"
    " ends the stale entry).",
    "result",
)
CACHE_LOSSES = _counter(
    "cache_losses", "Times that Redis was found to have lost the cache: emptied, or restarted without data."
)
PRODUCT_EVENTS = _counter(
    "product_events",
    "Events published to products_exchange, by outcome. unroutable: no ingest_api listens.",
    "key",
    "outcome",
)

# ── event_relay

# Each event_relay reports all hooks, also those of another relay: take the maximum over the processes.
HOOKS = _gauge("hooks", "Webhooks: active, failing (the last attempt failed), paused.", "state")
HOOK_LAG = _gauge(
    "hook_lag_events",
    "Events of the log that the webhook has not got yet. It includes those that its filters leave out.",
    "hook",
)
WEBHOOKS = _counter(
    "webhook_requests",
    "Requests sent to webhooks, test events included, by result: delivered, no_answer, 3xx, 4xx, 5xx.",
    "result",
)
WEBHOOK_EVENTS = _counter("webhook_events", "Events delivered to webhooks.")
WEBHOOK_SECONDS = _histogram(
    "webhook_seconds", "Seconds from a request to a webhook to the end of its answer.", _LATENCY_BUCKETS_S
)
EVENTS_PUBLISHED = _counter("events_published", "Events that RabbitMQ confirmed in order_events.")
EXCHANGE_LAG = _gauge(
    "exchange_lag_events",
    "Events of the log that are not in order_events yet, 0 in an event_relay that does not publish. While no queue is"
    " bound, events are passed over once a second.",
)

# ── every HTTP server

CONNECTIONS = _gauge(
    "connections",
    "Connections of clients: open; and unfinished, those of the open ones that have sent part of a request.",
    "state",
)
CONNECTIONS_CLOSED = _counter(
    "connections_closed",
    "Connections that the server closed: head_deadline and body_deadline (the client was too slow), unread (it did not"
    " read its answer), room (an idle one made room for another), surplus (no place was free).",
    "reason",
)
ACCEPT_PAUSES = _counter(
    "accept_pauses",
    "Times that the server stopped accepting connections, because few or no file descriptors were left.",
)

# ── every process

BROKER_RECONNECTS = _counter("broker_connection_losses", "Connections to the broker that were lost.", "connection")
BROKER_REFUSES_WITH_ROOM = _gauge(
    "broker_refuses_with_room",
    "1 while the broker refuses messages although the queue is empty. This is a fault of the broker, not overload, and"
    " only restarting the broker repairs it.",
    "connection",
)
REDECLARATIONS = _counter(
    "broker_redeclarations",
    "Times that exchanges and queues were declared again, because a message reached no queue.",
    "connection",
)
CLOCK_SKEW = _gauge(
    "clock_skew_seconds", "By how much this process's clock is ahead of PostgreSQL's, at least; 0 if it may be right."
)
LOG_LINES_DROPPED = SignalSafeCounter(
    "log_lines_dropped",
    "Log lines that were not written: unwritable (disk full, pipe closed), stuck (the pipe has no reader, or the disk"
    " hangs), flood (too many of a kind), unrenderable (a bug).",
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
    "1 while a part that the service needs or uses is available, else 0. /health says why.",
    "service",
    "part",
)
LONG_WAITS = _gauge(
    "long_waits", "1 while the part has waited for more than 5 s for what /health names, else 0.", "service", "part"
)
UNAVAILABLE = _counter("requests_unavailable", "Requests answered 503, by the problem's name.", "reason")
