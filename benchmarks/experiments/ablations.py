"""Ablations: Headrace without one of its features, to measure what the feature costs or gains.

python -m benchmarks.experiments.ablations NAME SERVICE

The services have no switches for these on purpose: a promise that can be switched off is no promise. So this module
patches a service before it starts.
"""

from __future__ import annotations

import asyncio
import runpy
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from benchmarks.contenders.contender import Contender
from benchmarks.contenders.headrace import HEADRACE

# Together with ingest_api's window: as many messages in flight as there are connections.
_PUBLISHERS = 128


@dataclass(frozen=True)
class Ablation:
    name: str
    title: str
    loses: str
    """The promise that is lost with the feature; empty if none."""
    apply: Callable[[], None] = lambda: None
    """Run in each process before its service."""
    environment: dict[str, str] = field(default_factory=dict)


def ablated(ablation: Ablation) -> Contender:
    """Headrace as a contender, with each process started through this module."""
    parts = tuple(
        replace(
            part,
            module="benchmarks.experiments.ablations",
            arguments=(ablation.name, part.module),
            environment={**part.environment, **ablation.environment},
        )
        for part in HEADRACE.parts
    )
    return replace(HEADRACE, parts=parts, guarantee=ablation.loses or HEADRACE.guarantee)


# ── what is taken away


def _no_group_commit() -> None:
    """One message for each order, and as many in flight as the clients have orders."""
    from ingest_api.intake.group_commit import GroupCommit

    run = GroupCommit.run

    async def many(self: GroupCommit) -> None:
        await asyncio.gather(*(run(self) for _ in range(_PUBLISHERS)))

    _put(GroupCommit, "run", many)
    _put(GroupCommit, "_due", lambda _self, _group: 0.0)  # none collects beside those in flight


def _no_confirms() -> None:
    from aio_pika.connection import Connection

    channel = Connection.channel

    def without(self: Connection, *arguments: Any, **options: Any) -> Any:
        return channel(self, *arguments, **{**options, "publisher_confirms": False, "on_return_raises": False})

    _put(Connection, "channel", without)
    _not_mandatory()  # what is returned is matched to its publish by the confirm


def _not_mandatory() -> None:
    import aiormq

    publish = aiormq.Channel.basic_publish

    async def optional(self: aiormq.Channel, body: bytes, **options: Any) -> Any:
        return await publish(self, body, **{**options, "mandatory": False})

    _put(aiormq.Channel, "basic_publish", optional)


def _classic_queues() -> None:
    from pipeline.contract import topology

    bounded = {"x-queue-type": "classic", "x-max-length": 2_000_000, "x-overflow": "reject-publish"}
    for name in ("_BOUNDED_QUORUM_QUEUE", "_ORDER_QUEUE"):
        _put(topology, name, bounded)


def _asynchronous_commit() -> None:
    from database import sessions

    settings: dict[str, str] = vars(sessions)["_SETTINGS"]
    settings["synchronous_commit"] = "off"


def _always_staging() -> None:
    from persist_worker import worker, write

    staged = vars(write)["_write_staged"]
    _put(worker, "write", lambda connection, orders, dead: staged(connection, "staging", orders, dead))


def _no_catalogue() -> None:
    from ingest_api.prices.catalogue import Catalogue

    _put(Catalogue, "get", lambda _self, _product_id: None)


def _no_mac() -> None:
    from pipeline.contract.order_ids import OrderIds

    def unsigned(_: OrderIds, bits: int) -> str:
        text = (bits << 24).to_bytes(16, "big").hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    _put(OrderIds, "_sign", unsigned)


def _request_and_response() -> None:
    """Starlette's own way: a function of a Request that returns a Response."""
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import request_response

    from ingest_api import app
    from ingest_api.intake.accept import AcceptOrder
    from ingest_api.prices.pricing import price
    from ingest_api.requests import decode_request
    from web.problems.problems import Problem
    from web.requests.head import head_of

    class Function(AcceptOrder):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._call = request_response(self._respond)

        async def _respond(self, request: Request) -> Any:
            order_id = self._intake.ids.mint()
            try:
                asked = decode_request(await request.body())
                order = await price(self._intake.catalogue, order_id, asked, head_of(request).client.name)
                answer = await self._accept(order, head_of(request), None)
            except Problem as problem:
                return problem
            location = {"location": f"/api/v1/orders/{order_id}"}
            return Response(answer, self._intake.status, location, "application/json")

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self._call(scope, receive, send)

    _put(app, "AcceptOrder", Function)


def _capped(rows: int) -> None:
    """A batch of persist_worker is written in pieces of so many orders, each committed by itself."""
    from persist_worker import worker, write

    whole: Callable[..., Awaitable[write.Written]] = write.write

    async def in_pieces(connection: Any, orders: list[Any], dead: list[Any]) -> write.Written:
        for start in range(0, len(orders), rows):
            await whole(connection, orders[start : start + rows], [])
        return write.Written("direct", orders) if not dead else await whole(connection, [], dead)

    _put(worker, "write", in_pieces)


def _default_collector() -> None:
    from pipeline.process import lifecycle

    _put(lifecycle, "_reduce_garbage_collection", lambda: None)


def _nothing() -> None:
    """The endpoint of orders reads the body, and answers as many bytes."""
    from ingest_api import app

    answer = (
        b'{"id":"01a20267-97ad-8199-a6a6-540000cf26ec","product_id":"01a20261-5c40-7b6e-9f0a-3d5c1e8a7b42",'
        b'"quantity":2,"unit_price":12.50,"total_price":25.00,"created_at":"2026-01-01T12:00:00.000000Z",'
        b'"status":"PENDING"}'
    )
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]

    class Nothing:
        def __init__(self, *_: Any) -> None:
            """Needs nothing."""

        async def __call__(self, _: Any, receive: Any, send: Any) -> None:
            while (await receive()).get("more_body"):
                pass
            await send({"type": "http.response.start", "status": 202, "headers": headers})
            await send({"type": "http.response.body", "body": answer})

    _put(app, "AcceptOrder", Nothing)


def _put(owner: Any, name: str, value: Any) -> None:
    """Replace an attribute. Raises AttributeError if it does not exist: the code was renamed, so rename it here too."""
    getattr(owner, name)
    setattr(owner, name, value)


_STILL_DURABLE = ""
ABLATIONS = (
    Ablation(
        "no-group-commit",
        "group commit off: each order its own message",
        _STILL_DURABLE,
        _no_group_commit,
        {"INGEST_API_MAX_GROUP_ORDERS": "1"},
    ),
    Ablation("no-confirms", "confirms off", "P1: a broker that dies takes accepted orders with it.", _no_confirms),
    Ablation("not-mandatory", "mandatory off", "P1, if the binding of the queue is lost.", _not_mandatory),
    Ablation("classic-queue", "classic queues", "P1 with the only node; no delivery limit.", _classic_queues),
    Ablation(
        "asynchronous-commit",
        "synchronous_commit off",
        "P1: PostgreSQL that dies forgets orders that the broker no longer has.",
        _asynchronous_commit,
    ),
    Ablation("always-staging", "each batch through the staging table", _STILL_DURABLE, _always_staging),
    Ablation("no-catalogue", "catalogue off: each order asks Redis", _STILL_DURABLE, _no_catalogue),
    Ablation("no-mac", "order ids without a MAC", "P6: an unknown id cannot be told from a new one.", _no_mac),
    Ablation("request-response", "endpoint of Request and Response", _STILL_DURABLE, _request_and_response),
    *(
        Ablation(f"batch-{rows}", f"persist batches of {rows:,}", _STILL_DURABLE, partial(_capped, rows))
        for rows in (1, 10, 100, 1_000)
    ),
    Ablation(
        "no-linger",
        "workers without linger",
        _STILL_DURABLE,
        environment={"PERSIST_WORKER_LINGER_MS": "0", "PRODUCT_CONSUMER_LINGER_MS": "0"},
    ),
    Ablation("default-collector", "the cycle collector as Python has it", _STILL_DURABLE, _default_collector),
)
# Everything removed: not a row of its own, but the reference for ingest_api alone.
NOTHING = Ablation("nothing", "an endpoint that does nothing", "All of them.", _nothing)
BY_NAME = {it.name: it for it in (*ABLATIONS, NOTHING)}


if __name__ == "__main__":
    _, name, service = sys.argv
    BY_NAME[name].apply()
    sys.argv = [service]
    runpy.run_module(service, run_name="__main__", alter_sys=True)
