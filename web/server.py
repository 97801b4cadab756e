"""uvicorn inside a process that has its own ideas about signals and exit codes."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Iterator

import structlog
import uvicorn
from starlette.types import ASGIApp

from pipeline.lifecycle import Misconfigured
from web.connection_limits import Config, allow_open_files
from web.connections import KEEP_ALIVE_S, Connection

log = structlog.get_logger()

# What an API serves unless it is told otherwise. An idle connection is some 20 KB.
MAX_CONNECTIONS = 4096


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to lifecycle: uvicorn raises them again after its shutdown, and the exit code would be 143."""
        yield


async def serve(
    app: ASGIApp,
    host: str,
    port: int,
    stop: asyncio.Event,
    *,
    grace_s: float,
    lifespan: bool = True,
    max_connections: int = 256,
) -> None:
    """Serve `app`, its lifespan included, until `stop` is set; then finish the requests in hand, for `grace_s` at the
    most.

    Without a lifespan it may be cancelled at any moment. With one, uvicorn would leave the lifespan's task behind, and
    log its end as an error. `max_connections`: the most at once, idle ones included, which make room for new ones;
    the default is for health pages.
    Raises RuntimeError if the app does not start, Misconfigured if it cannot listen there or have so many files open.
    """
    allow_open_files(max_connections)
    config = Config(
        app,
        host=host,
        port=port,
        http=Connection,
        loop="none",  # the loop is running already
        ws="none",
        lifespan="on" if lifespan else "off",
        proxy_headers=False,  # nothing here asks who the client is, and the middleware costs each request
        access_log=False,  # one line for each order would cost more than the order
        log_config=None,
        server_header=False,
        backlog=4096,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(grace_s)),
    )
    config.max_connections, config.idle = max_connections, OrderedDict()
    server = _Server(config)
    serving = asyncio.create_task(_serve(server, f"{host}:{port}"))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    stopping.cancel()
    await serving


async def _serve(server: uvicorn.Server, address: str) -> None:
    try:
        await server.serve()
    except SystemExit as error:  # uvicorn's way of saying that it cannot bind
        raise Misconfigured(f"cannot listen on {address}; is the port taken?") from error
    if not server.started:
        raise RuntimeError(f"the application on {address} did not start; the log above says why")
