"""Resources as HTTP wants them; and the vendored files as they came."""

import gzip
import re
from hashlib import sha256
from pathlib import Path

import pytest
from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.routing import Route

from web.documents.resources import HTML, Resource

WEB = Path(__file__).parents[4] / "web" / "documents"
VENDOR = WEB / "vendor" / "swagger-ui"
CONTENT = b"<p>content</p>" * 20


@pytest.fixture
def client() -> AsyncClient:
    app = Starlette(routes=[Route("/", Resource.of(CONTENT, HTML), methods=["GET"])])
    return AsyncClient(transport=ASGITransport(app), base_url="http://test")


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [("gzip", "gzip"), ("br, GZIP;q=0.5", "gzip"), ("gzip;q=0", None), ("identity", None), ("", None)],
)
async def test_it_is_compressed_for_who_takes_that(client: AsyncClient, accepted: str, coding: str | None) -> None:
    response = await client.get("/", headers={"Accept-Encoding": accepted})
    assert response.content == CONTENT
    assert response.headers.get("content-encoding") == coding
    assert response.headers["vary"] == "Accept-Encoding"


async def test_who_has_it_is_told_so(client: AsyncClient) -> None:
    etag = (await client.get("/")).headers["etag"]
    again = await client.get("/", headers={"If-None-Match": f'"else", {etag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert (await client.get("/", headers={"If-None-Match": '"else"'})).status_code == 200


@pytest.mark.parametrize("values", [["*"], ['"else"', "{}"], ["{}"], ["W/{}"], ['W/"x",,{} ,']])
async def test_a_get_is_conditional_as_http_has_it(client: AsyncClient, values: list[str]) -> None:
    opaque = (await client.get("/")).headers["etag"].removeprefix("W/")
    sent = [("If-None-Match", value.format(opaque)) for value in values]
    assert (await client.get("/", headers=sent)).status_code == 304


@pytest.mark.parametrize("value", ["", "{}x", "x, {}", "*, {}"])
async def test_what_are_no_etags_is_ignored(client: AsyncClient, value: str) -> None:
    etag = (await client.get("/")).headers["etag"]
    assert (await client.get("/", headers={"If-None-Match": value.format(etag)})).status_code == 200


async def test_it_is_decompressed_once_however_often_it_is_asked_for(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    decompressed: list[bytes] = []
    decompress = gzip.decompress

    def counted(content: bytes) -> bytes:
        decompressed.append(content)
        return decompress(content)

    monkeypatch.setattr(gzip, "decompress", counted)
    for _ in range(3):
        assert (await client.get("/", headers={"Accept-Encoding": "identity"})).content == CONTENT
    assert len(decompressed) == 1


async def test_nothing_from_elsewhere_may_run(client: AsyncClient) -> None:
    headers = (await client.get("/")).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"


def test_the_vendored_files_are_those_that_are_named_beside_them() -> None:
    sums = dict(re.findall(r"^\| `(.+)` \| `([0-9a-f]{64})` \|$", (VENDOR / "README.md").read_text(), re.MULTILINE))
    assert sums.keys() == {path.name.removesuffix(".gz") for path in VENDOR.glob("*.gz")}
    for name, expected in sums.items():
        assert sha256(gzip.decompress((VENDOR / f"{name}.gz").read_bytes())).hexdigest() == expected
    assert "Apache License" in (VENDOR / "LICENSE").read_text()


def test_our_own_pages_name_no_other_host() -> None:
    for path in (WEB / "static").iterdir():
        assert not re.search(r"(https?:)?//[a-z]", path.read_text().replace("// ", "")), path
