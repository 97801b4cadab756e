"""An application that echoes requests, and has one path whose answer the test releases."""

import asyncio

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from web.problems.handlers import on_disconnect


async def _echo(request: Request) -> Response:
    return Response(await request.body(), headers={"X-Path": request.url.path})


async def _held(request: Request) -> Response:
    if request.method == "POST":
        await request.body()
    request.app.state.held.append(request.method)
    await request.app.state.release.wait()
    return Response()


def make_echo() -> Starlette:
    """`/held` adds to `app.state.held` once the request is whole, and is answered once `app.state.release` is set."""
    paths = {"/echo": _echo, "/held": _held}
    routes = [Route(path, endpoint, methods=["GET", "POST"]) for path, endpoint in paths.items()]
    app = Starlette(routes=routes, exception_handlers={ClientDisconnect: on_disconnect})  # as in the APIs
    app.state.held, app.state.release = [], asyncio.Event()
    return app


def request(body: bytes, *headers: bytes) -> bytes:
    head = [b"POST /echo HTTP/1.1", b"Host: localhost", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(head) + b"\r\n\r\n" + body
