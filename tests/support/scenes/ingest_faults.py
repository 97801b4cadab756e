"""ingest_api with a fault between it and one of its servers."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx

from tests.conftest import Servers
from tests.support.faults.faults import Proxy, proxy_to
from tests.support.services.ingest import Ingest

# The meaning of "quickly" on a small machine that is busy with tests.
QUICK_S = 1.0


@asynccontextmanager
async def behind(environment: dict[str, str], variable: str) -> AsyncIterator[Proxy]:
    """Run a proxy between ingest_api and one of its servers. Changes `environment` to use it."""
    async with proxy_to(environment[variable]) as proxy:
        environment[variable] = proxy.url(environment[variable])
        yield proxy


async def quickly(answer: Awaitable[httpx.Response]) -> httpx.Response:
    started = time.monotonic()
    response = await answer
    assert time.monotonic() - started < QUICK_S
    return response


def answers(ingest: Ingest, product_id: str, status: int) -> Callable[[], Awaitable[bool]]:
    async def does() -> bool:
        return (await ingest.order(product_id)).status_code == status

    return does


async def limit_queues(servers: Servers, amqp_url: str, messages: int, queue: str = "orders.accepted") -> None:
    """Set a policy with a lower limit than the queue's arguments; the lower one is in force."""
    definition = {"max-length": messages, "overflow": "reject-publish"}
    policy = {"pattern": f"^{queue}$", "definition": definition, "apply-to": "queues"}
    async with httpx.AsyncClient(base_url=servers.rabbitmq_api) as api:
        (await api.put(_policy(amqp_url, queue), json=policy)).raise_for_status()


async def unlimit_queues(servers: Servers, amqp_url: str, queue: str = "orders.accepted") -> None:
    """Remove the policy of `limit_queues`."""
    async with httpx.AsyncClient(base_url=servers.rabbitmq_api) as api:
        (await api.delete(_policy(amqp_url, queue))).raise_for_status()


def _policy(amqp_url: str, queue: str) -> str:
    return f"/api/policies/{urlsplit(amqp_url).path[1:]}/full-{queue}"
