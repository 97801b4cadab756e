"""Settings of ingest_api, from the environment: `INGEST_API_PORT=8080` and so on."""

from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from web.access.settings import WEB_ADDRESS, ApiSettings
from web.serving.server import MAX_CONNECTIONS


class IngestSettings(ApiSettings):
    model_config = SettingsConfigDict(env_prefix="INGEST_API_", frozen=True, extra="ignore")

    # The port for clients. 0: any free port.
    port: int = Field(default=8080, ge=0, le=65535)
    # The health listener's, for probes and Prometheus.
    health_port: int = Field(default=9103, ge=0, le=65535)
    # Idle ones included. Past it, 503. Each is an open file, which the system must allow.
    max_connections: int = Field(default=MAX_CONNECTIONS, ge=1)
    # Where people find product_api: a link on the page at `/`. ./headrace up and docker-compose.yml set it.
    products_url: str = Field(default="", pattern=WEB_ADDRESS)

    # The service that this one replaces answered 201. 202 is the truth: accepted, not yet decided.
    accepted_status: int = Field(default=202, ge=201, le=202)
    # An order takes 65 bytes. The rest is room for white space.
    max_body_bytes: int = Field(default=64 * 1024, ge=1024)
    # 1,000 orders of 65 bytes, with a great deal of white space.
    max_bulk_bytes: int = Field(default=1024**2, ge=1024)

    # Of one message: a worker can hold hundreds of them, and the broker's frame size (128 KiB) takes one in one frame.
    max_group_orders: int = Field(default=500, ge=1)
    max_group_bytes: int = Field(default=120 * 1024, ge=1024)
    # Messages in flight at once. Two hide the broker's answer time: beside other load, 1.2 to 1.5 times the orders/s of
    # one (6 interleaved pairs, 128 connections, 2 cores). Four gave no more than two.
    publish_window: int = Field(default=2, ge=1, le=16)
    # The second goes only with this many orders, or this long after the first: a message costs broker and workers some
    # 0.6 ms of CPU, however small. Against two at any time: 1.24 times the orders/s with 64 connections, 1.12 with 256,
    # CPU 0.83 and 0.91 (5 interleaved pairs). 64 orders gave half of it; 5 ms, or the first alone, nothing.
    publish_overlap_orders: int = Field(default=128, ge=1)
    publish_overlap_after_s: float = Field(default=0.02, ge=0)
    # Past either, 503: at 5,000 orders/s this is four seconds of waiting, and at 250 bytes an order 5 MB.
    max_waiting_orders: int = Field(default=20_000, ge=1)
    max_waiting_bytes: int = Field(default=16 * 1024**2, ge=1024)
    # Orders of bulk requests in hand at once, from before they are decoded until they are answered, 2 to 3 KB each. Ten
    # of the largest bulks, and half of all that may wait: single orders have the other half.
    max_bulk_orders: int = Field(default=10_000, ge=1_000)

    # How long a price may be used without asking again. Events refresh it long before; the TTL is for lost events.
    catalogue_ttl_s: float = Field(default=30.0, gt=0)
    # How long an old price still sells while the database is away. 0: not at all.
    catalogue_max_stale_s: float = Field(default=600.0, ge=0)
    # How long an order waits for a price look-up if an old price is known: ten times what a healthy store takes. A
    # store that needs longer counts as away, and no order waits for it: the old price sells meanwhile.
    catalogue_patience_s: float = Field(default=0.025, ge=0)
    # An id that was not a product a moment ago may be one now.
    catalogue_unknown_ttl_s: float = Field(default=2.0, gt=0)
    # Some 500 bytes each.
    catalogue_max_products: int = Field(default=100_000, ge=1)
    # Ids that are not products have a small cache of their own, so that a flood of them pushes nothing else out.
    catalogue_max_unknown: int = Field(default=10_000, ge=1)
    # Product ids that are looked up at once, some 300 bytes each: ten questions of 500, each of 5 ms. Past it, 503.
    max_lookups: int = Field(default=5_000, ge=1)

    # The lifetime of a key: how long Redis holds a keyed order's price. A stored order is found without it.
    idempotency_remember_s: float = Field(default=24 * 3600.0, gt=0)
    # One client's share of Redis for its keys: 400 bytes each, 2.5 to 60 kB for a bulk request. Past
    # it, Redis drops the client's own oldest. A quarter of what the stack's Redis has, so no client fills it alone.
    idempotency_max_bytes_per_client: int = Field(default=64 * 1024**2, ge=1024**2)
    # While nobody knows whether an order was accepted before, its answer waits this long for it to be stored. Then 503.
    idempotency_stored_within_s: float = Field(default=3.0, gt=0)
    # How long a request that died without an answer holds its key. Longer than a live one takes, unless that waits for
    # Redis, PostgreSQL and the broker in turn. Then a retry is published beside it, as the same order.
    idempotency_in_flight_s: float = Field(default=8.0, gt=0, le=10)

    # Requests that wait for a verdict (?wait=) at once; those past it are answered at once. Together they are one
    # question to PostgreSQL, up to 20 times a second. As many may wait for an event.
    max_waiting_reads: int = Field(default=1_000, ge=0)
    # Orders that GET asks for at once, some 1 KB each. Past it, 503. 200 are one question, which takes 4 ms.
    max_order_reads: int = Field(default=2_000, ge=1)
    # Lists of orders that are read or wait for their turn. Past it, 503. The largest takes some 10 ms of this process,
    # and as much of PostgreSQL. A waiting list costs nothing. A refused one costs 0.3 ms, and a client that asks again
    # at once is refused again. With 50 places, 400 such connections gave orders a p99 of 1.3 s and got 29 lists in 8 s.
    # With 500 places it was 86 ms and 1,384 lists.
    max_list_reads: int = Field(default=2_000, ge=1)
    # Streams of events at once, of all clients; one client alone has half of them at the most. Past it, 503. They share
    # one reader of the log. A stream holds some 100 KB for a client that reads slowly, and a place of max_connections.
    max_event_streams: int = Field(default=200, ge=0)
    # Pages of old events that are read or wait for their turn. Past it, 503. The newest 10,000 events cost no read.
    max_event_reads: int = Field(default=500, ge=1)
    # Between two looks at the log. A batch of product_consumer takes longer, so nearly every batch is passed on by
    # itself, some 20 ms after its commit.
    event_interval_s: float = Field(default=0.02, gt=0, le=1)
    # Database connections; one more listens for verdicts, one for events. Each sort has its own, so that none waits for
    # another; the write path has none. For the prices of products that the catalogue does not hold:
    database_price_connections: int = Field(default=2, ge=1)
    # For GET of single orders: for each, many orders are one question.
    database_order_connections: int = Field(default=2, ge=1)
    # For orders with a key, which so wait for no read. One question at a time, for all that wait.
    database_retry_connections: int = Field(default=1, ge=1)
    # For lists: two keep a core of PostgreSQL, or this process, busy.
    database_list_connections: int = Field(default=2, ge=1)
    # For events further back than this process remembers: as for lists.
    database_event_connections: int = Field(default=2, ge=1)
    # For one question, waiting for a connection included. Then 503.
    database_timeout_s: float = Field(default=2.0, gt=0)

    @property
    def database_connections(self) -> int:
        """Database connections of one process, all sorts together."""
        reads = self.database_price_connections + self.database_order_connections + self.database_list_connections
        return reads + self.database_event_connections + self.database_retry_connections + 2

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        if self.max_waiting_orders < self.max_group_orders or self.max_waiting_bytes < self.max_group_bytes:
            raise ValueError("max_waiting_orders and max_waiting_bytes must hold at least one full group")
        if self.max_group_bytes < self.max_body_bytes:
            raise ValueError("max_group_bytes must be at least max_body_bytes")
        if self.idempotency_in_flight_s <= self.confirm_timeout_s:
            raise ValueError("idempotency_in_flight_s must be longer than confirm_timeout_s")
        return self
