"""Both APIs behave as their OpenAPI documents say: schemathesis, with all its checks, tests running services."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import product_api.documents
from ingest_api.documents.operations import OPERATIONS as INGEST_OPERATIONS
from product_api.operations import OPERATIONS as PRODUCT_OPERATIONS
from tests.contract.conftest import TOKENS
from tests.contract.exemptions import exemptions_for
from tests.contract.schemathesis_run import Report, Target, all_checks, run_schemathesis
from tests.support.services.processes import running
from web.documents.front_page import FRONT_PAGE
from web.documents.health_operations import HEALTH_OPERATIONS
from web.requests.routes import as_asgi

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

OPERATIONS = {
    "orders": (*INGEST_OPERATIONS, FRONT_PAGE, *HEALTH_OPERATIONS),
    "products": (*PRODUCT_OPERATIONS, FRONT_PAGE, *HEALTH_OPERATIONS),
}
EACH = pytest.mark.parametrize("api", OPERATIONS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reports(orders: Target, products: Target, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Report]:
    """API → the report of one run. Products come last, because their run deletes the product that both use."""
    targets = {"orders": orders, "products": products}
    return {api: await run_schemathesis(it, tmp_path_factory.mktemp(api)) for api, it in targets.items()}


@EACH
async def test_nothing_is_found(reports: Mapping[str, Report], api: str, tell: Callable[[str], None]) -> None:
    report = reports[api]
    tell(report.summary(f"schemathesis, {api}"))
    assert report.failures == frozenset(), report.output


@EACH
async def test_every_operation_was_tried_and_has_ended_well(reports: Mapping[str, Report], api: str) -> None:
    assert reports[api].operations == len(OPERATIONS[api])
    for operation in OPERATIONS[api]:
        answered = reports[api].statuses[f"{operation.method} {operation.path}"]
        assert answered & {answer.status for answer in operation.answers}, operation.id


@EACH
async def test_every_check_was_made(reports: Mapping[str, Report], api: str) -> None:
    assert reports[api].checks.keys() == all_checks()


async def test_every_exemption_is_needed(reports: Mapping[str, Report]) -> None:
    held = {reason for report in reports.values() for reason in report.exempted}
    assert held == {exemption.reason for exemption in exemptions_for([])}


# ── planted faults are found

QUICK = ("--phases", "examples,coverage")


def _always(status: int, content: object) -> Callable[[Request], Response]:
    body = msgspec.json.encode(content)
    return lambda _: Response(body, status, media_type="application/json")


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (_always(500, {}), {"ServerError", "UndefinedContentType"}),
        (_always(418, {}), {"UndefinedStatusCode"}),
        (_always(200, {"id": 1}), {"JsonSchemaError", "MissingHeaders", "IgnoredAuth", "AcceptedNegativeData"}),
        (_always(422, {"type": "/docs/problems/key-reused"}), {"RejectedPositiveData", "UnsupportedMethodResponse"}),
        (_always(428, {"type": "/docs/problems/precondition-required"}), {"RejectedPositiveData"}),
    ],
    ids=["500", "418", "yes", "no", "428"],
)
async def test_an_api_that_is_not_what_its_document_says_is_found_out(
    answer: Callable[[Request], Response], found: set[str], products: Target, tmp_path: Path
) -> None:
    document = msgspec.json.encode(product_api.documents.openapi())

    async def liar(request: Request) -> Response:
        is_document = request.url.path == "/openapi.json"
        return Response(document, media_type="application/json") if is_document else answer(request)

    app = Starlette(routes=[Route("/{path:path}", as_asgi(liar))])
    async with running(app, ready="/openapi.json") as url:
        report = await run_schemathesis(replace(products, url=url), tmp_path, *QUICK)
    assert found <= report.failures, report.output


async def test_orders_that_another_client_can_read_are_found_out(orders: Target, tmp_path: Path) -> None:
    """Two keys belong to one client, and schemathesis is told that they belong to two."""
    tokens = {"alice": TOKENS["alice"], "not alice": TOKENS["alice again"]}
    target = replace(orders, tokens=tokens, peers=tuple(tokens))
    report = await run_schemathesis(target, tmp_path, *QUICK, "--include-tag", "Orders")
    assert "ObjectLevelAuthorizationViolation" in report.failures, report.output
