"""The API of the contenders on bare Starlette: ingest_api's validation and answer, around a `take` of their own."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias
from uuid import UUID, uuid4

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.contenders.prices import Prices
from ingest_api.requests import BasketRequest, canonical_product_id, decode_request
from pipeline.contract.orders import Order, encode_order
from web.problems import problems
from web.problems.problems import Problem
from web.requests.head import parse_head
from web.serving.body import read_json_body

_MAX_BODY_BYTES = 16 * 1024

Take: TypeAlias = Callable[[Order], Awaitable[None]]


@dataclass(frozen=True)
class OrderEndpoint:
    """ASGI, as ingest_api's: Starlette's Request and Response would cost this contender 27 %."""

    prices: Prices
    take: Take
    """Does what the answer promises."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            order = await self._order(await read_json_body(parse_head(scope["headers"]), receive, _MAX_BODY_BYTES))
            await self.take(order)
        except Problem as problem:
            return await problem(scope, receive, send)
        return await answer(send, 201, encode_order(order))

    async def _order(self, body: bytes) -> Order:
        request = decode_request(body)
        if isinstance(request, BasketRequest):
            raise problems.invalid("/lines", "Only Headrace takes several lines. Send a productId and a quantity.")
        product_id = canonical_product_id(request.product_id)
        if (price := await self.prices.of(UUID(product_id))) is None:
            raise problems.unknown_product(product_id)
        return Order(
            id=str(uuid4()),
            product_id=product_id,
            quantity=request.quantity,
            unit_price=price,
            total_price=price * request.quantity,
            status="PENDING",
            created_at=datetime.now(UTC),
        )


def row(order: Order) -> tuple[Any, ...]:
    """The parameters of INSERT_ORDER and STORE_AND_DECIDE."""
    return order.id, order.product_id, order.quantity, order.unit_price, order.total_price, order.created_at


async def answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def order_app(opened: Callable[[], AbstractAsyncContextManager[ASGIApp]]) -> Starlette:
    """`opened`: entered at start-up; gives the endpoint for orders."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with opened() as endpoint:
            app.router.routes.insert(0, Route("/api/v1/orders", endpoint, methods=["POST"]))
            yield

    return Starlette(routes=[Route("/readyz", _ready)], lifespan=lifespan)


async def _ready(_: Request) -> Response:
    return Response()
