"""docs/api: its client retries as it says, its figures were measured, and its facts are those of the code."""

import json
import re
from typing import Any

import httpx
import pytest

from ingest_api.intake.bulk import MAX_ORDERS
from ingest_api.reads.lookup import MAX_WAIT_S
from stack.home.directory import ROOT
from web.access.clients import SCOPES
from web.problems.kinds import KINDS

PAGE = "\n".join(it.read_text() for it in sorted((ROOT / "docs" / "api").glob("*.md")))
KEY = "01a20267-9000-7c3d-8a1e-2b4c6d8e0f11"
ORDER = {"id": "01a20267-97ad-8199-a6a6-540000cf26ec", "status": "PENDING"}
UNKNOWN = httpx.Response(
    503, headers={"Retry-After": "7"}, json={"type": KINDS["outcome-unknown"].type, "detail": "Nobody knows."}
)


class Service:
    """Gives these answers, one for each request, and keeps the requests. An exception is raised."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers, self.requests = list(answers), list[httpx.Request]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self) -> httpx.Client:
        return httpx.Client(base_url="http://orders", transport=httpx.MockTransport(self))


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses of the client, which are not waited for."""
    kept: list[float] = []
    monkeypatch.setattr("time.sleep", kept.append)
    return kept


@pytest.fixture
def code() -> dict[str, Any]:
    """The client of the page."""
    (text,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "client"}
    exec(compile(text, "docs/api/retries.md", "exec"), names)
    return names


def problem(name: str) -> httpx.Response:
    return httpx.Response(KINDS[name].status, json={"type": KINDS[name].type, "detail": "As it is."})


def test_the_client_sends_the_same_key_until_the_outcome_is_known(code: dict[str, Any], pauses: list[float]) -> None:
    answers = (httpx.ConnectError("gone"), UNKNOWN, problem("request-in-flight"), httpx.Response(202, json=ORDER))
    service = Service(*answers)
    with service.client() as client:
        assert code["place_order"](client, "a product", 2, KEY) == ORDER
    assert [it.headers["Idempotency-Key"] for it in service.requests] == [KEY] * len(answers)
    assert {it.content for it in service.requests} == {service.requests[0].content}
    assert json.loads(service.requests[0].content) == {"productId": "a product", "quantity": 2}
    assert 7 <= pauses[1] <= 7 * 1.5


@pytest.mark.parametrize("name", ["out-of-stock", "unknown-product", "invalid-value", "key-reused", "unauthenticated"])
def test_the_client_does_not_repeat_what_is_refused(code: dict[str, Any], pauses: list[float], name: str) -> None:
    service = Service(problem(name))
    with service.client() as client, pytest.raises(code["OrderRefused"]):
        code["place_order"](client, "a product", 2, KEY)
    assert pauses == []


def test_the_client_says_when_its_patience_ends(code: dict[str, Any], pauses: list[float]) -> None:
    with Service(UNKNOWN).client() as client, pytest.raises(code["OutcomeUnknown"]):
        code["place_order"](client, "a product", 2, KEY, patience_s=5)
    assert pauses == []


def test_the_client_waits_for_the_verdict(code: dict[str, Any], pauses: list[float]) -> None:
    decided = ORDER | {"status": "PROCESSED"}
    service = Service(httpx.Response(200, json=ORDER), problem("overloaded"), httpx.Response(200, json=decided))
    with service.client() as client:
        assert code["verdict_of"](client, ORDER["id"]) == decided
    assert {it.url.params["wait"] for it in service.requests} == {str(int(MAX_WAIT_S))}


def test_its_keys_are_uuids_of_version_7(code: dict[str, Any]) -> None:
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", code["uuid7"]())


def test_what_is_said_of_keys_is_what_was_measured() -> None:
    results = json.loads((ROOT / "benchmarks/results/key_locality.json").read_text())["results"]
    random, ordered = (next(it for it in results if it["keys"] == keys) for keys in ("UUIDv4", "UUIDv7"))
    said = re.findall(r"([0-9.]+) times as much", PAGE)
    assert said == [f"{random[what] / ordered[what]:.1f}" for what in ("wal_bytes_per_row", "primary_key_mb")]


def test_its_problems_scopes_and_limits_are_those_of_the_code() -> None:
    told = re.findall(r"\b(\d{3}) `([a-z-]+)`", PAGE)
    assert len(told) > 5
    assert [(status, name) for status, name in told if name not in KINDS or KINDS[name].status != int(status)] == []
    assert [it for it in SCOPES if f"| `{it}` |" not in PAGE] == []
    assert f"1 to {MAX_ORDERS:,} orders" in PAGE
    assert f"0 to {MAX_WAIT_S:.0f}, holds" in PAGE
