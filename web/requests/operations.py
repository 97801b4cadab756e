"""The operations of an API as data. Routes, guards and the OpenAPI document are all made from it."""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from web.problems.kinds import Kind
from web.requests.query import QueryGuard

Guard = Callable[[ASGIApp, str], ASGIApp]
"""Wraps an endpoint so that it is reached only by who has what the operation needs."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a request carries besides its body."""

    name: str
    place: Literal["path", "query", "header"]
    type: Any
    """As msgspec understands it. Says what is allowed; what happens to the rest is for the problems to say."""
    description: str
    """Markdown, as all descriptions are."""
    example: Any
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Header:
    """A header of an answer."""

    name: str
    type: Any
    description: str
    example: Any
    is_always_there: bool = False


@dataclass(frozen=True, slots=True)
class ArrayOf:
    """An array whose elements are of one of several structs, which msgspec could not tell apart when decoding."""

    items: tuple[type, ...]
    min_items: int
    max_items: int


@dataclass(frozen=True, slots=True)
class Content:
    """A body in one media type."""

    type: Any
    """As msgspec understands it; or an ArrayOf; or `str` for what is no JSON."""
    examples: Mapping[str, Any]
    """By what each shows. At least one, of JSON values and structs."""
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Link:
    """What can be done next with what was answered."""

    operation_id: str
    parameter: str
    """The one of the next operation that takes it."""
    expression: str
    """A runtime expression of OpenAPI: where in the answer it is."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One way that an operation ends well."""

    status: int
    description: str
    contents: tuple[Content, ...] = ()
    headers: tuple[Header, ...] = ()
    links: tuple[Link, ...] = ()


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    id: str
    method: str
    path: str
    """As Starlette has it, and OpenAPI: `/products/{product_id}`."""
    needs: str
    """A scope of web.access.clients, or PUBLIC or ANY_KEY."""
    # What follows is for its readers alone.
    tag: str = ""
    summary: str = ""
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: tuple[Content, ...] = ()
    """What it takes, one for each media type."""
    answers: tuple[Answer, ...] = ()
    problems: tuple[Kind, ...] = ()
    """Those besides the ones that all operations of its sort have: see web.documents.openapi."""

    ignores_query: bool = False
    """For probes alone: one that adds something of its own to the path must not find the process dead."""


class _RequestResponse:
    """A function of a request, as an ASGI application."""

    def __init__(self, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


_TAKES = "headrace.media_types"


def media_types_of(scope: Scope) -> tuple[str, ...]:
    """Those that the operation of this request takes a body in."""
    media_types: tuple[str, ...] = scope[_TAKES]
    return media_types


class _Path(Route):
    """A path that is answered here whatever the method: `bulk` is no order's id, so GET is 405 and not 404."""

    def __init__(self, path: str, app: ASGIApp, takes: Mapping[str, tuple[str, ...]]) -> None:
        """`takes`: the media types of bodies, by the method."""
        # An app, not a function: to a function, Starlette gives a Request and takes a Response.
        super().__init__(path, app, methods=list(takes))
        self._takes = takes

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        child[_TAKES] = self._takes.get(scope["method"], ())
        return Match.FULL if match is Match.PARTIAL else match, child


class _ByMethod:
    """One ASGI application for a path, so that 405 names all the methods it has."""

    def __init__(self, endpoints: Mapping[str, ASGIApp]) -> None:
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        await self._endpoints[method](scope, receive, send)


def unguarded(app: ASGIApp, _: str) -> ASGIApp:
    return app


def make_routes(operations: Sequence[Operation], endpoints: Mapping[str, Any], guard: Guard) -> list[Route]:
    """A route for each path. `endpoints`: one for each operation, by its id: a function of a request that returns a
    response, or, where that would cost too much, an ASGI application.
    """
    assert endpoints.keys() == {it.id for it in operations}
    by_path: dict[str, list[Operation]] = {}
    for operation in operations:
        by_path.setdefault(operation.path, []).append(operation)
    return [_route(path, methods, endpoints, guard) for path, methods in by_path.items()]


def as_endpoint(endpoint: Any, operation: Operation) -> ASGIApp:
    """An ASGI application that refuses the query parameters which the operation does not take."""
    app = as_asgi(endpoint)
    if operation.ignores_query:
        return app
    return QueryGuard(app, [it.name for it in operation.parameters if it.place == "query"])


def as_asgi(endpoint: Any) -> ASGIApp:
    is_function = inspect.isfunction(endpoint) or inspect.ismethod(endpoint)
    app: ASGIApp = _RequestResponse(endpoint) if is_function else endpoint
    return app


def _route(path: str, operations: Sequence[Operation], endpoints: Mapping[str, Any], guard: Guard) -> Route:
    by_method = {it.method: guard(as_endpoint(endpoints[it.id], it), it.needs) for it in operations}
    only = next(iter(by_method.values())) if len(by_method) == 1 else _ByMethod(by_method)
    return _Path(path, only, {it.method: tuple(content.media_type for content in it.body) for it in operations})
