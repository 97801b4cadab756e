"""Headrace itself as a contender: the real processes, with their defaults."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.contenders.contender import Contender, Part

INGEST = Part("ingest_api", "ingest_api", port_variable="INGEST_API_PORT")
PERSIST = Part("persist_worker", "persist_worker", port_variable="PERSIST_WORKER_PORT")
CONSUMER = Part("product_consumer", "product_consumer", port_variable="PRODUCT_CONSUMER_PORT")

HEADRACE = Contender(
    name="headrace",
    title="Headrace",
    what="Orders collect while a message is in flight, are confirmed together, and written by two workers in batches.",
    guarantee="2xx: fsynced in a quorum queue. kill -9 of any process loses none, and none is stored twice.",
    parts=(INGEST, PERSIST, CONSUMER),
)
KEYED = replace(
    HEADRACE,
    name="headrace-keyed",
    title="Headrace, Idempotency-Key",
    what="As headrace, each request with an Idempotency-Key of its own (a UUIDv7), remembered in Redis.",
    guarantee="As headrace, and the same request sent again makes no second order.",
    request="keyed",
)
BULK = replace(
    HEADRACE,
    name="headrace-bulk",
    title="Headrace, 500 orders a request",
    what="As headrace, through /api/v1/orders/bulk: one message and one confirm for the 500 orders of a request.",
    path="/api/v1/orders/bulk",
    request="bulk",
    orders_per_request=500,
)
# What takes orders and nothing behind it: how near the door comes to an endpoint that does nothing.
ALONE = replace(
    HEADRACE,
    name="headrace-ingest",
    title="Headrace, ingest_api alone",
    what="ingest_api and the broker under load; the workers start afterwards, so that every order is accounted for.",
)

# The limit of the edge. See ablations.
NOOP = Contender(
    name="noop",
    title="an endpoint that does nothing",
    what="The same application and server; the endpoint of orders reads the body, and answers as many bytes.",
    guarantee="A 2xx means nothing: nothing is stored.",
    parts=(replace(INGEST, module="benchmarks.experiments.ablations", arguments=("nothing", INGEST.module)),),
    stores=False,
)

CONTENDERS = (HEADRACE, KEYED, BULK)
