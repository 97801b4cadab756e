"""Starlette's handlers: each exception that leaves an endpoint becomes a problem.

An exception that is not a Problem, and that no handler names, is a bug of Headrace: it is logged with its traceback,
and the caller gets a bare 500.
"""

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from pipeline.process.shares import Busy
from web.problems import kinds
from web.problems.problems import Problem, busy, store_unavailable

log = structlog.get_logger()


async def on_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def on_disconnect(_: Request, __: Exception) -> Response:
    """The client left before its body was complete. Nobody reads this answer; 499 is nginx's status for it."""
    return Response(status_code=499)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Turns Starlette's own errors into problems: 404 for a path, 405 for a method."""
    assert isinstance(error, HTTPException)
    kind, detail = {
        404: (kinds.NOT_FOUND, f"There is nothing at {request.url.path}. Paths have no slash at their end."),
        405: (kinds.METHOD_NOT_ALLOWED, f"{request.method} does not work here. The Allow header says what does."),
    }.get(error.status_code, (kinds.MALFORMED, error.detail))
    return Problem(kind, detail, headers=error.headers).response()


async def on_bug(request: Request, error: Exception) -> Response:
    log.error("unhandled exception", path=request.url.path, exc_info=error)
    detail = "This is a fault of the service, and its log has the cause. The request may have been carried out."
    return Problem(kinds.INTERNAL_ERROR, detail).response()


async def on_store_unavailable(_: Request, error: Exception) -> Response:
    return store_unavailable(str(error)).response()


async def on_busy(_: Request, __: Exception) -> Response:
    return busy().response()


HANDLERS = {
    Problem: on_problem,
    Busy: on_busy,
    ClientDisconnect: on_disconnect,
    HTTPException: on_http_exception,
    Exception: on_bug,
}
