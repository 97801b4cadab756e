"""Makes the routes of an API from its table of operations, each behind the checks of its row: API key and query."""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from web.access.clients import Guard
from web.requests.head import HEAD, Head, parse_head
from web.requests.operations import Operation
from web.requests.query import check_query


def make_routes(operations: Sequence[Operation], endpoints: Mapping[str, Any], guard: Guard) -> list[Route]:
    """Makes a route for each path. `endpoints`: by operation id, a function of a request that returns a response; or,
    where that would cost too much, an ASGI application.
    """
    assert endpoints.keys() == {it.id for it in operations}
    by_path: dict[str, dict[str, ASGIApp]] = {}
    for it in operations:
        by_path.setdefault(it.path, {})[it.method] = _Endpoint(it, as_asgi(endpoints[it.id]), guard)
    return [_Path(path, by_method) for path, by_method in by_path.items()]


def as_asgi(endpoint: Any) -> ASGIApp:
    is_function = inspect.isfunction(endpoint) or inspect.ismethod(endpoint)
    app: ASGIApp = _RequestResponse(endpoint) if is_function else endpoint
    return app


class _RequestResponse:
    """Adapts a function of a request to an ASGI application."""

    def __init__(self, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


class _Path(Route):
    """A route that takes every method of its path: GET on `bulk` is then 405, instead of an unknown order's 404."""

    def __init__(self, path: str, by_method: Mapping[str, ASGIApp]) -> None:
        # An app, not a function: Starlette passes a Request to a function, and takes a Response.
        only = next(iter(by_method.values())) if len(by_method) == 1 else _ByMethod(by_method)
        super().__init__(path, only, methods=list(by_method))

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        return Match.FULL if match is Match.PARTIAL else match, child


class _ByMethod:
    """One ASGI application for all methods of a path, so that 405 names them all."""

    def __init__(self, endpoints: Mapping[str, ASGIApp]) -> None:
        self._endpoints = endpoints

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        # Not a coroutine: an order would pay for one more.
        return self._endpoints[method](scope, receive, send)


class _Endpoint:
    """An operation's endpoint, behind the checks of its row. A class, not a function: Starlette passes a Request to a
    function.
    """

    def __init__(self, operation: Operation, app: ASGIApp, guard: Guard) -> None:
        self._operation, self._app, self._guard = operation, app, guard
        query = [it for it in operation.parameters if it.place == "query"]
        self._query = tuple(it.name for it in query)
        self._lists = tuple(it.name for it in query if it.is_list)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        head: Head | None = scope.get(HEAD)
        if head is None:  # another server than Connection, which has parsed it
            head = scope[HEAD] = parse_head(scope["headers"])
        head.operation = self._operation
        head.client = self._guard(head.authorizations, self._operation.needs)
        if scope["query_string"] and not self._operation.ignores_query:
            check_query(scope["query_string"], self._query, self._lists)
        # Not a coroutine: an order would pay for one more.
        return self._app(scope, receive, send)
