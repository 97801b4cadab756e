"""docs/api: its client retries as it says, its figures were measured, and its facts are those of the code."""

import json
import re
from typing import Any

import httpx
import pytest

from ingest_api.documents.operations import OPERATIONS as ORDERS
from ingest_api.intake.bulk import MAX_ORDERS
from product_api.operations import OPERATIONS as PRODUCTS
from stack.home.directory import ROOT
from tests.support.data.samples import samples
from web.access.clients import ANY_KEY, PUBLIC
from web.documents.front_page import FRONT_PAGE
from web.documents.health_operations import HEALTH_OPERATIONS
from web.documents.openapi import problems_of
from web.problems.kinds import KINDS
from web.requests.waits import MAX_WAIT_S

PAGE = "\n".join(it.read_text() for it in sorted((ROOT / "docs" / "api").glob("*.md")))
KEY = "01a20267-9000-7c3d-8a1e-2b4c6d8e0f11"
ACCEPT_ORDER = next(it for it in ORDERS if it.id == "acceptOrder")
ORDER = {"id": "01a20267-97ad-8199-a6a6-540000cf26ec", "status": "PENDING"}
REQUEST = {"productId": "a product", "quantity": 2}
UNKNOWN = httpx.Response(
    503, headers={"Retry-After": "7"}, json={"type": KINDS["outcome-unknown"].type, "detail": "Nobody knows."}
)


def problem(name: str) -> httpx.Response:
    return httpx.Response(KINDS[name].status, json={"type": KINDS[name].type, "detail": "As it is."})


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
    (text,) = [it.text for it in samples("python") if it.document == "docs/api/retries.md"]
    names: dict[str, Any] = {"__name__": "client"}
    exec(compile(text, "docs/api/retries.md", "exec"), names)
    return names


def test_the_client_sends_the_same_key_until_the_outcome_is_known(code: dict[str, Any], pauses: list[float]) -> None:
    answers = (httpx.ConnectError("gone"), UNKNOWN, problem("request-in-flight"), httpx.Response(202, json=ORDER))
    service = Service(*answers)
    with service.client() as client:
        assert code["place_order"](client, REQUEST, KEY) == ORDER
    assert [it.headers["Idempotency-Key"] for it in service.requests] == [KEY] * len(answers)
    assert {it.content for it in service.requests} == {service.requests[0].content}
    assert json.loads(service.requests[0].content) == REQUEST
    assert 7 <= pauses[1] <= 7 * 1.5


@pytest.mark.parametrize("name", ["out-of-stock", "unknown-product", "invalid-value", "key-reused", "unauthenticated"])
def test_the_client_does_not_repeat_what_is_refused(code: dict[str, Any], pauses: list[float], name: str) -> None:
    service = Service(problem(name))
    with service.client() as client, pytest.raises(code["OrderRefused"]):
        code["place_order"](client, REQUEST, KEY)
    assert pauses == []


def test_the_client_says_when_its_patience_ends(code: dict[str, Any], pauses: list[float]) -> None:
    with Service(UNKNOWN).client() as client, pytest.raises(code["OutcomeUnknown"]):
        code["place_order"](client, REQUEST, KEY, patience_s=5)
    assert pauses == []


STRANGE = (
    httpx.Response(200, html="<h1>Welcome</h1>"),
    httpx.Response(200),
    httpx.Response(202, json=[]),
    httpx.Response(200, content=b"\xff\xfe{"),
    httpx.Response(502, html="<h1>Bad Gateway</h1>"),
    httpx.Response(503, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
    httpx.Response(520),
    httpx.ReadTimeout("too slow"),
    httpx.RemoteProtocolError("cut off"),
    httpx.DecodingError("not gzip"),
)


@pytest.mark.parametrize("strange", STRANGE, ids=repr)
def test_the_client_goes_on_after_any_answer_that_settles_nothing(
    code: dict[str, Any], pauses: list[float], strange: httpx.Response | Exception
) -> None:
    decided = ORDER | {"status": "PROCESSED"}
    service = Service(strange, httpx.Response(202, json=ORDER), strange, httpx.Response(200, json=decided))
    with service.client() as client:
        assert code["place_order"](client, REQUEST, KEY) == ORDER
        assert code["verdict_of"](client, ORDER["id"]) == decided
    assert len(pauses) == 2
    assert all(1 <= it <= 1.5 for it in pauses)


@pytest.mark.parametrize(
    "refusal",
    [problem("not-found"), problem("unauthenticated"), httpx.Response(403, html="<h1>Forbidden</h1>")],
    ids=repr,
)
def test_the_client_does_not_wait_for_the_verdict_of_an_order_that_it_may_not_read(
    code: dict[str, Any], pauses: list[float], refusal: httpx.Response
) -> None:
    with Service(refusal).client() as client, pytest.raises(code["OrderRefused"]):
        code["verdict_of"](client, ORDER["id"])
    assert pauses == []


def test_the_client_cancels_until_nothing_is_left_to_cancel(code: dict[str, Any], pauses: list[float]) -> None:
    processed = ORDER | {"status": "PROCESSED", "final": True}
    parked = ORDER | {"status": "FAILED", "final": False}
    for over in (ORDER | {"status": "CANCELLED", "final": True}, parked | {"final": True}):
        answers = [httpx.Response(202, json=it) for it in (ORDER, processed, parked)]
        service = Service(UNKNOWN, *answers, httpx.Response(200, json=over))
        with service.client() as client:
            assert code["cancel"](client, ORDER["id"], "no need") == over
        assert {it.content for it in service.requests} == {b'{"reason":"no need"}'}
        assert {it.url.path for it in service.requests} == {f"/api/v1/orders/{ORDER['id']}/cancel"}
    assert len(pauses) == 8


def test_the_client_does_not_wait_for_a_verdict_for_ever(code: dict[str, Any], pauses: list[float]) -> None:
    with Service(httpx.Response(200, json=ORDER)).client() as client, pytest.raises(code["OutcomeUnknown"]):
        code["verdict_of"](client, ORDER["id"], patience_s=0)
    assert pauses == []


def test_the_client_waits_for_the_verdict(code: dict[str, Any], pauses: list[float]) -> None:
    decided = ORDER | {"status": "PROCESSED"}
    service = Service(httpx.Response(200, json=ORDER), problem("overloaded"), httpx.Response(200, json=decided))
    with service.client() as client:
        assert code["verdict_of"](client, ORDER["id"]) == decided
    assert {it.url.params["wait"] for it in service.requests} == {str(int(MAX_WAIT_S))}


def test_its_keys_are_uuids_of_version_7(code: dict[str, Any]) -> None:
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", code["uuid7"]())


def test_its_table_of_keys_says_what_each_operation_needs() -> None:
    (table,) = re.findall(r"^\| request \| scope that .*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    said: dict[tuple[str, str], str] = {}
    for line in table.strip().splitlines()[2:]:
        requests, needs, _ = (it.strip() for it in line.strip("| ").split(" | "))
        paths = re.findall(r"(/[^\s`,]*)`", requests)
        for method in re.findall(r"[A-Z]+", requests) or ["GET"]:
            said |= {(method, path): needs for path in paths}
    for operation in (*ORDERS, *PRODUCTS, FRONT_PAGE, *HEALTH_OPERATIONS):
        needs = said[operation.method, operation.path]
        assert needs.startswith({PUBLIC: "no key", ANY_KEY: "any key"}.get(operation.needs, f"`{operation.needs}`"))


def test_what_is_said_of_keys_is_what_was_measured() -> None:
    results = json.loads((ROOT / "benchmarks/results/key_locality.json").read_text())["results"]
    random, ordered = (next(it for it in results if it["keys"] == keys) for keys in ("UUIDv4", "UUIDv7"))
    said = re.findall(r"([0-9.]+) times as much", PAGE)
    assert said == [f"{random[what] / ordered[what]:.1f}" for what in ("wal_bytes_per_row", "primary_key_mb")]


def test_its_problems_and_limits_are_those_of_the_code() -> None:
    told = [
        (int(status), name)
        for status, names in re.findall(r"\b(\d{3}) (`[a-z-]+`(?:, `[a-z-]+`)*)", PAGE)
        for name in re.findall("[a-z-]+", names)
    ]
    assert [(status, name) for status, name in told if name not in KINDS or KINDS[name].status != status] == []
    # The table of statuses has every problem that an order can be answered with.
    (table,) = re.findall(r"^## Order a product\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    rows = {name for line in table.splitlines() if line.startswith("| ") for name in re.findall("`([a-z-]+)`", line)}
    assert {it.name for it in problems_of(ACCEPT_ORDER)} <= rows
    assert f"1 to {MAX_ORDERS:,} orders" in PAGE
    assert f"0 to {MAX_WAIT_S:.0f}, holds" in PAGE
