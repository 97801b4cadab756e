"""The Starlette applications: health pages, errors as problems, and routes that exist while what they need is open."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Route

from pipeline.process.health import Health
from pipeline.process.lifecycle import background
from web.access.clients import Guard, unguarded
from web.access.hosts import Hosts
from web.access.keys import Keys
from web.problems.handlers import HANDLERS, on_store_unavailable
from web.serving.health import health_routes


def make_api(
    health: Health,
    running: Callable[[], AbstractAsyncContextManager[list[Route]]],
    store_away: type[Exception],
    keys: Keys,
    documents: Sequence[Route],
    hosts: Hosts,
) -> Starlette:
    """Makes the application of an API. Nothing connects before its lifespan begins.

    `running`: entered at start-up, where it makes the routes and what is behind them; left after the last answer.
    `store_away`: what endpoints raise while the database cannot be asked. `keys`: watched during the lifespan; they
    guard the health pages here, and the routes where those are made. `documents`: public. The application's state holds
    `health` and `hosts` for the server.
    """
    api = health_app(health, keys.guard)
    api.state.health, api.state.hosts = health, hosts
    api.router.routes.extend(documents)
    api.add_exception_handler(store_away, on_store_unavailable)

    @asynccontextmanager
    async def lifespan(api: Starlette) -> AsyncIterator[None]:
        async with background(keys.watch()), running() as routes:
            api.router.routes[:0] = routes
            yield

    api.router.lifespan_context = lifespan
    return api


def health_app(health: Health, guard: Guard = unguarded) -> Starlette:
    """Makes the application with the health pages alone, which workers and probe ports serve. It has no lifespan."""
    app = Starlette(routes=health_routes(health, guard), exception_handlers=HANDLERS)
    # A redirect to the path without its slash would send the client to the Host that it named, over plain http.
    app.router.redirect_slashes = False
    return app
