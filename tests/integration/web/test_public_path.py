"""Behind a proxy that strips a path prefix: the service's links work through the proxy."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.services.ingest import ingesting, insert_product
from tests.support.services.processes import running, service_process

_PREFIX = "/shop/v2"


@asynccontextmanager
async def stripping(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a proxy to `url`."""
    async with httpx.AsyncClient(base_url=url, timeout=15) as upstream:

        async def hand_on(request: Request) -> Response:
            target = request.url.path.removeprefix(_PREFIX)
            headers = {"content-type": "application/json", "accept-encoding": "identity"}
            got = await upstream.request(
                request.method, f"{target}?{request.url.query}", content=await request.body(), headers=headers
            )
            return Response(got.content, got.status_code, dict(got.headers))

        app = Starlette(routes=[Route(_PREFIX + "/{rest:path}", hand_on, methods=["GET", "POST"])])
        async with running(app, ready=f"{_PREFIX}/livez") as proxy, httpx.AsyncClient(timeout=15) as client:
            client.base_url = httpx.URL(proxy)
            yield client


async def test_links_and_locations_of_orders_lead_through_the_proxy(environment: Mapping[str, str]) -> None:
    product_id = await insert_product(environment["DATABASE_URL"])
    async with ingesting(environment, public_path=_PREFIX) as ingest, stripping(ingest.service.url) as client:
        order = {"productId": product_id, "quantity": 1}
        accepted = await client.post(f"{_PREFIX}/api/v1/orders", json=order)
        assert accepted.headers["location"].startswith(f"{_PREFIX}/api/v1/orders/")
        assert (await client.get(accepted.headers["location"])).json()["id"] == accepted.json()["id"]
        document = (await client.get(f"{_PREFIX}/openapi.json")).json()
        assert document["servers"][0]["url"] == _PREFIX


async def test_links_and_locations_of_products_lead_through_the_proxy(environment: Mapping[str, str]) -> None:
    settings = {"PRODUCT_API_PUBLIC_PATH": _PREFIX}
    async with service_process("product_api", {**environment, **settings}) as service, stripping(service.url) as client:
        made = []
        for name in ("a", "b", "c"):
            created = await client.post(f"{_PREFIX}/products", json={"name": name, "price": 1, "qty": 1})
            made.append((await client.get(created.headers["location"])).json()["id"])
        seen, path = [], f"{_PREFIX}/products?limit=1"
        while path:
            page = await client.get(path)
            seen += [it["id"] for it in page.json()]
            path = page.links["next"]["url"] if "next" in page.links else ""
        assert seen == made[::-1]
