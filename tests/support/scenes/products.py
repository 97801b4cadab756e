"""Runs product_api in this process, and creates products through it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from product_api.app import make_app
from product_api.settings import ProductSettings
from tests.support.faults.faults import Proxy, proxy_to
from tests.support.services.processes import running
from tests.support.services.settings import settings_from

LAPTOP = {"name": "Laptop Demo", "price": 1500, "qty": 50}
OVERWRITE = {"If-Match": "*"}
# A deadline of the service, and what a busy machine adds.
PROMPTLY_S = 4.0


@asynccontextmanager
async def running_product_api(
    environment: dict[str, str], *, ready: str = "/readyz", **changes: object
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a product_api with these settings, once `ready` answers 200."""
    app = make_app(settings_from(ProductSettings, environment, **changes))
    async with running(app, ready=ready) as url, httpx.AsyncClient(base_url=url, timeout=10) as client:
        yield client


async def create(api: httpx.AsyncClient, **values: object) -> str:
    """Create a laptop with these values. Returns its path."""
    response = await api.post("/products", json={**LAPTOP, **values})
    assert response.status_code == 201, response.text
    return response.headers["Location"]


@asynccontextmanager
async def by_proxy(environment: dict[str, str], variable: str) -> AsyncIterator[Proxy]:
    """Put a proxy between the server of this URL and the processes that start later."""
    async with proxy_to(environment[variable]) as proxy:
        environment[variable] = proxy.url(environment[variable])
        yield proxy
