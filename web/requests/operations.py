"""The operations of an API as data, from which its routes, guards and OpenAPI document are made."""

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
"""Wraps an endpoint so that only clients with what the operation needs reach it."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a request, in its path, query or headers."""

    name: str
    place: Literal["path", "query", "header"]
    type: Any
    """A type for msgspec. It says what is allowed; the problems say what happens to other values."""
    description: str
    """Markdown, like all descriptions."""
    example: Any
    is_required: bool = False
    is_filled_in: bool = False
    """Whether the page at /docs fills the example in, because it works as it is."""


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
    """A type for msgspec; or an ArrayOf; or `str` for a body that is not JSON."""
    examples: Mapping[str, Any]
    """Named after what each shows. At least one, of JSON values and structs."""
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Link:
    """An operation that a client can call next with a value from the answer."""

    operation_id: str
    parameter: str
    """The next operation's parameter that takes the value."""
    expression: str
    """A runtime expression of OpenAPI: where in the answer the value is."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One way in which an operation succeeds."""

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
    """In the form of Starlette and OpenAPI: `/products/{product_id}`."""
    needs: str
    """A scope of web.access.clients, or PUBLIC or ANY_KEY."""
    # The fields below are for the documents, and for checking queries and media types.
    tag: str = ""
    summary: str = ""
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: tuple[Content, ...] = ()
    """The bodies that it takes, one for each media type."""
    answers: tuple[Answer, ...] = ()
    problems: tuple[Kind, ...] = ()
    """Besides the problems that all operations of its sort have: see web.documents.openapi."""

    ignores_query: bool = False
    """For probes alone: a probe that adds its own query must not find the process dead."""


class _RequestResponse:
    """Adapts a function of a request to an ASGI application."""

    def __init__(self, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


_TAKES = "headrace.media_types"


def media_types_of(scope: Scope) -> tuple[str, ...]:
    """The media types that the operation of this request takes a body in."""
    media_types: tuple[str, ...] = scope[_TAKES]
    return media_types


class _Path(Route):
    """A route that takes every method of its path: GET on `bulk` is then 405, instead of an unknown order's 404."""

    def __init__(self, path: str, app: ASGIApp, takes: Mapping[str, tuple[str, ...]]) -> None:
        """`takes`: the media types of bodies, by the method."""
        # An app, not a function: Starlette passes a Request to a function, and takes a Response.
        super().__init__(path, app, methods=list(takes))
        self._takes = takes

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        child[_TAKES] = self._takes.get(scope["method"], ())
        return Match.FULL if match is Match.PARTIAL else match, child


class _ByMethod:
    """One ASGI application for all methods of a path, so that 405 names them all."""

    def __init__(self, endpoints: Mapping[str, ASGIApp]) -> None:
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        await self._endpoints[method](scope, receive, send)


def unguarded(app: ASGIApp, _: str) -> ASGIApp:
    return app


def make_routes(operations: Sequence[Operation], endpoints: Mapping[str, Any], guard: Guard) -> list[Route]:
    """Makes a route for each path. `endpoints`: by operation id, a function of a request that returns a response; or,
    where that would cost too much, an ASGI application.
    """
    assert endpoints.keys() == {it.id for it in operations}
    by_path: dict[str, list[Operation]] = {}
    for operation in operations:
        by_path.setdefault(operation.path, []).append(operation)
    return [_route(path, methods, endpoints, guard) for path, methods in by_path.items()]


def as_endpoint(endpoint: Any, operation: Operation) -> ASGIApp:
    """An ASGI application that refuses query parameters that the operation does not take."""
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
