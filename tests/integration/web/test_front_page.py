"""`GET /` of both APIs: HTML for a person, JSON for a program, without a key and without other hosts."""

import re
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from pipeline.contract.api_keys import new_token
from pipeline.process.version import project_version
from tests.support.data.api_keys import key_of, write_keys
from tests.support.data.json_schema import check
from tests.support.services.processes import service_process

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
OTHER = {"ingest_api": ("products", "PRODUCTS"), "product_api": ("orders", "ORDERS")}
OTHER_URL = "https://other.example:8443/shop"


@pytest.fixture(params=OTHER)
async def api(
    request: pytest.FixtureRequest, environment: Mapping[str, str], tmp_path: Path
) -> AsyncIterator[tuple[str, httpx.AsyncClient]]:
    """The name of an API with keys that knows the other API's address; and a client without a key."""
    name, keys = request.param, tmp_path / "keys.json"
    write_keys(keys, key_of(new_token()))
    told = {"API_KEYS_FILE": str(keys), f"{name.upper()}_{OTHER[name][1]}_URL": OTHER_URL}
    async with (
        service_process(name, {**environment, **told}, ready="/livez") as service,
        httpx.AsyncClient(base_url=service.url, timeout=15) as client,
    ):
        yield name, client


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html;q=0.5, application/json", "image/png"])
async def test_a_program_gets_json_with_links_that_work(api: tuple[str, httpx.AsyncClient], accept: str) -> None:
    name, client = api
    answer = await client.get("/", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    told = answer.json()
    assert (told["service"], told["version"]) == (name, project_version())
    assert told["links"].pop(OTHER[name][0]) == OTHER_URL
    for link in told["links"].values():
        allowed = {"/health": [401], "/readyz": [200, 503]}.get(link, [200])
        assert (await client.get(link)).status_code in allowed, link


@pytest.mark.parametrize("accept", [BROWSER, "text/html", "text/*, */*;q=0.1"])
async def test_a_person_gets_a_page_with_the_same_links(api: tuple[str, httpx.AsyncClient], accept: str) -> None:
    _, client = api
    page = await client.get("/", headers={"Accept": accept})
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    links = (await client.get("/")).json()["links"].values()
    assert set(links) <= set(re.findall(r'href="([^"]+)"', page.text))
    assert project_version() in page.text


async def test_the_page_needs_no_other_file_and_runs_no_script(api: tuple[str, httpx.AsyncClient]) -> None:
    _, client = api
    page = await client.get("/", headers={"Accept": "text/html"})
    (style,) = re.findall(r"<style>(.*?)</style>", page.text, re.DOTALL)
    allowed = f"'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'"
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert (policy["default-src"], policy["style-src"]) == ("'none'", allowed)
    assert re.findall(r"<script|<link(?! rel=\"icon\" href=\"data:)|<img| style=| src=| on[a-z]+=", page.text) == []
    assert "prefers-color-scheme: dark" in style


async def test_a_cache_keeps_both_apart_and_asks_before_it_uses_either(api: tuple[str, httpx.AsyncClient]) -> None:
    _, client = api
    etags = set()
    for accept in ("text/html", "application/json"):
        first = await client.get("/", headers={"Accept": accept})
        assert first.headers["cache-control"] == "no-cache"
        assert first.headers["vary"] == "Accept, Accept-Encoding"
        again = await client.get("/", headers={"Accept": accept, "If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        etags.add(first.headers["etag"])
    assert len(etags) == 2


async def test_head_has_the_headers_alone_and_other_methods_are_405(api: tuple[str, httpx.AsyncClient]) -> None:
    _, client = api
    read, head = await client.get("/"), await client.head("/")
    assert (head.status_code, head.content) == (200, b"")
    assert {**head.headers, "date": ""} == {**read.headers, "date": ""}
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        refused = await client.request(method, "/")
        assert refused.status_code == 405
        assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD"}
        assert refused.json()["type"].endswith("/method-not-allowed")


async def test_it_is_in_the_openapi_document_and_as_that_says(api: tuple[str, httpx.AsyncClient]) -> None:
    _, client = api
    document = (await client.get("/openapi.json")).json()
    described = document["paths"]["/"]["get"]
    assert described["security"] == []
    contents = described["responses"]["200"]["content"]
    assert contents.keys() == {"application/json", "text/html"}
    check((await client.get("/?utm_source=x")).json(), contents["application/json"]["schema"], document)


@pytest.mark.parametrize("name", OTHER)
async def test_behind_a_proxy_the_links_have_its_path_and_an_unknown_neighbour_is_not_named(
    environment: Mapping[str, str], name: str
) -> None:
    told = {**environment, f"{name.upper()}_PUBLIC_PATH": "/shop"}
    async with (
        service_process(name, told, ready="/livez") as service,
        httpx.AsyncClient(base_url=service.url) as client,
    ):
        links = (await client.get("/")).json()["links"]
        assert OTHER[name][0] not in links
        assert {link.startswith("/shop/") for link in links.values()} == {True}
        page = (await client.get("/", headers={"Accept": "text/html"})).text
        assert {link.startswith(("/shop/", "data:")) for link in re.findall(r'href="([^"]+)"', page)} == {True}
