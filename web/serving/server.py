"""Runs uvicorn inside a process that handles signals, exit codes and accepting connections itself."""

import asyncio
import contextlib
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial

import structlog
import uvicorn
from starlette.types import ASGIApp

from pipeline.process import metrics
from pipeline.process.lifecycle import Misconfigured
from web.access.hosts import Hosts, is_loopback
from web.serving.acceptor import Acceptor, listen
from web.serving.closures import closures
from web.serving.connection_limits import HEALTH_FILES, RESERVED_FILES, Config, allow_open_files
from web.serving.connections import KEEP_ALIVE_S, Connection

log = structlog.get_logger()

# The default of an API. An idle connection is some 20 KB.
MAX_CONNECTIONS = 4096


# Probes and scrapes: a few at once, and each for a moment.
MAX_HEALTH_CONNECTIONS = 32


class _Server(uvicorn.Server):
    config: Config

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to lifecycle: uvicorn raises them again after its shutdown, so the exit code would be 143."""
        yield

    def stop_listening(self) -> None:
        """Close the listening sockets, also after a cancellation that kept uvicorn from doing it."""
        for it in getattr(self, "servers", ()):
            it.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        """Start up like uvicorn, but with an Acceptor for new connections. Raises SystemExit, OSError."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise SystemExit
        try:
            listening = await listen(self.config.host, self.config.port, self.config.backlog)
        except OSError:
            await self.lifespan.shutdown()
            raise
        make_protocol = partial(
            Connection, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        reserved = self.config.reserved_files
        acceptor = Acceptor(listening, make_protocol, self.config.make_room, reserved_files=reserved)
        self.servers = [acceptor]  # type: ignore[list-item]
        self.started = True


async def serve_health(app: ASGIApp, host: str, port: int) -> None:
    """Serve the health pages until cancelled, with places and file descriptors of their own.

    Clients cannot take these from probes: half-sent requests to the API once kept everybody out, and a healthy process
    was restarted. Raises Misconfigured if the port is taken.
    """
    await serve(
        app,
        host,
        port,
        asyncio.Event(),
        grace_s=1,
        lifespan=False,
        max_connections=MAX_HEALTH_CONNECTIONS,
        reserved_files=HEALTH_FILES,
        hosts=Hosts() if is_loopback(host) else None,
    )


async def serve(
    app: ASGIApp,
    host: str,
    port: int,
    stop: asyncio.Event,
    *,
    grace_s: float,
    lifespan: bool = True,
    max_connections: int = 256,
    reserved_files: int = RESERVED_FILES,
    hosts: Hosts | None = None,
    public_path: str = "",
) -> None:
    """Serve `app`, its lifespan included, until `stop` is set; then finish the requests in hand, for `grace_s` at the
    most.

    Without a lifespan, this may be cancelled at any moment. With one, uvicorn would leave the lifespan's task behind,
    and log its end as an error. `max_connections`: at once; idle and unfinished ones make room for new ones.
    `reserved_files`: file descriptors left to the rest of the process. `hosts`: those that are answered; None: any.
    `public_path`: the prefix that a proxy in front strips from each path; the `root_path` of ASGI.
    Raises RuntimeError if the app does not start, Misconfigured if it cannot listen there or open so many files.
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
        proxy_headers=False,  # nothing here reads the client's address, and the middleware costs each request
        access_log=False,  # one line for each order would cost more than the order
        log_config=None,
        server_header=False,
        root_path=public_path,
        backlog=4096,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(grace_s)),
    )
    config.max_connections, config.reserved_files, config.waiting = max_connections, reserved_files, OrderedDict()
    config.hosts = hosts
    server = _Server(config)
    if lifespan:  # health pages are not counted: they would count the scrapes
        _watch_connections(server)
    serving = asyncio.create_task(_serve(server, f"{host}:{port}"))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
    finally:
        stopping.cancel()
        serving.cancel()
        server.stop_listening()


def _watch_connections(server: _Server) -> None:
    """Register the connection gauges. They are computed when they are read, so connections cost nothing."""
    found: dict[str, Callable[[], int]] = {
        "open": lambda: len(server.server_state.connections),
        "unfinished": lambda: server.config.unfinished,
    }
    for state, count in found.items():
        metrics.CONNECTIONS.labels(state).set_function(count)
    closures.describe = lambda: {state: count() for state, count in found.items()}


async def _serve(server: _Server, address: str) -> None:
    try:
        await server.serve()
    except OSError as error:
        raise Misconfigured(f"cannot listen on {address}: {error}; is the port taken?") from error
    except SystemExit:  # the lifespan failed, which is logged
        pass
    if not server.started:
        raise RuntimeError(f"the application on {address} did not start; the log above says why")
