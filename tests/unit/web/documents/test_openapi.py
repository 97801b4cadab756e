"""The OpenAPI documents: valid, true to the code, and with an example of everything."""

import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

import product_api.documents
from ingest_api.documents import documents as ingest_documents
from ingest_api.documents import operations
from ingest_api.intake.bulk import read, split
from ingest_api.requests import OrderRequest, decode_request
from pipeline.contract.order_view import OrderView
from pipeline.contract.order_view import encode as encode_view
from pipeline.contract.orders import Order, encode_order
from pipeline.process.health import Health
from product_api.operations import OPERATIONS as PRODUCT_OPERATIONS
from product_api.products import Product
from product_api.products import encode as encode_product
from product_api.requests import decode_patch, decode_product, decode_restock
from tests.support.data.json_schema import as_sent, check, is_valid
from web.access.clients import ANY_KEY, PUBLIC, SCOPES
from web.documents.front_page import FRONT_PAGE
from web.documents.health_operations import HEALTH_OPERATIONS
from web.documents.openapi import ANYWHERE, problems_of
from web.documents.problem_examples import example_of
from web.problems import kinds as problem_kinds
from web.problems import problems
from web.problems.kinds import KINDS
from web.requests import idempotency_keys

Json = Any
ORDERS: Json = as_sent(ingest_documents.openapi())
PRODUCTS: Json = as_sent(product_api.documents.openapi())
DOCUMENTS = pytest.mark.parametrize("document", [ORDERS, PRODUCTS], ids=["orders", "products"])
OPERATIONS = (*operations.OPERATIONS, *PRODUCT_OPERATIONS, FRONT_PAGE, *HEALTH_OPERATIONS)

ID = "01a20267-97ad-8199-a6a6-540000cf26ec"
NOW = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)


def operations_of(document: Json) -> Iterator[Json]:
    for path in document["paths"].values():
        yield from path.values()


def operation_of(document: Json, operation_id: str) -> Json:
    (found,) = (it for it in operations_of(document) if it["operationId"] == operation_id)
    return found


def contents_of(operation: Json) -> Iterator[Json]:
    """Every body that goes in or out."""
    yield from operation.get("requestBody", {}).get("content", {}).values()
    for response in operation["responses"].values():
        yield from response.get("content", {}).values()


def schema_of(document: Json, name: str) -> Json:
    return document["components"]["schemas"][name]


@DOCUMENTS
def test_the_document_is_valid(document: Json) -> None:
    assert document["openapi"].startswith("3.1")
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


@DOCUMENTS
def test_every_body_has_examples_and_they_are_what_its_schema_says(document: Json) -> None:
    for operation in operations_of(document):
        for content in contents_of(operation):
            assert content["examples"]
            for example in content["examples"].values():
                check(example["value"], content["schema"], document)


@DOCUMENTS
def test_every_parameter_and_header_has_an_example_and_it_is_what_its_schema_says(document: Json) -> None:
    for operation in operations_of(document):
        for parameter in operation["parameters"]:
            (example,) = parameter["schema"]["examples"]
            check(example, parameter["schema"], document)
        for response in operation["responses"].values():
            for header in response.get("headers", {}).values():
                check(header["example"], header["schema"], document)


@DOCUMENTS
def test_every_operation_says_what_it_is_for_and_ends_well_in_some_way(document: Json) -> None:
    tags = {it["name"] for it in document["tags"]}
    for operation in operations_of(document):
        assert operation["summary"]
        assert set(operation["tags"]) <= tags
        assert min(operation["responses"]) in ("200", "201", "202", "204")
        assert "500" in operation["responses"]


@DOCUMENTS
def test_every_refusal_is_a_problem_and_names_its_types(document: Json) -> None:
    for operation in operations_of(document):
        for status, response in operation["responses"].items():
            if status < "400":
                continue
            schema = response["content"]["application/problem+json"]["schema"]
            types = schema["properties"]["type"]["enum"]
            assert {KINDS[it.rpartition("/")[2]].status for it in types} == {int(status)}
            assert not is_valid({**example_of(problem_kinds.MALFORMED), "type": "/else"}, schema, document)


@DOCUMENTS
def test_what_can_be_sent_again_later_says_when(document: Json) -> None:
    for operation in operations_of(document):
        for status in operation["responses"].keys() & {"429", "503"}:
            assert "Retry-After" in operation["responses"][status]["headers"]


def test_whoever_is_limited_is_told_what_is_left_with_every_answer_that_knows_it() -> None:
    limited = {it["operationId"] for it in operations_of(ORDERS) if "429" in it["responses"]}
    assert limited == {"acceptOrder", "acceptOrders", "cancelOrder"}
    for operation in operations_of(ORDERS):
        for status, answer in operation["responses"].items():
            told = {"RateLimit", "RateLimit-Policy"} & answer.get("headers", {}).keys()
            knows = operation["operationId"] in limited and status not in ("401", "403", "421", "431", "500")
            assert len(told) == 2 * knows, (operation["operationId"], status)


def test_every_kind_of_problem_is_answered_by_someone() -> None:
    answered = {kind for operation in OPERATIONS for kind in problems_of(operation)}
    assert answered <= set(KINDS.values())
    assert set(KINDS.values()) - answered == {problem_kinds.METHOD_NOT_ALLOWED}  # which no operation is
    assert set(ANYWHERE) <= answered


def test_every_kind_of_problem_has_an_example() -> None:
    for kind in KINDS.values():
        example = example_of(kind)
        assert (example["type"], example["status"]) == (kind.type, kind.status)
        check(example, schema_of(ORDERS, "ProblemDetails"), ORDERS)


@DOCUMENTS
def test_every_link_leads_to_an_operation_and_a_parameter_of_it(document: Json) -> None:
    links = [
        link
        for it in operations_of(document)
        for answer in it["responses"].values()
        for link in answer.get("links", {}).values()
    ]
    assert links
    for link in links:
        target = operation_of(document, link["operationId"])
        assert link["parameters"].keys() <= {it["name"] for it in target["parameters"]}


def test_access_is_told() -> None:
    for document, table in ((ORDERS, operations.OPERATIONS), (PRODUCTS, PRODUCT_OPERATIONS)):
        for operation in (*table, FRONT_PAGE, *HEALTH_OPERATIONS):
            described = operation_of(document, operation.id)
            assert (described["security"] == []) == (operation.needs == PUBLIC)
            assert ("401" in described["responses"]) == (operation.needs != PUBLIC)
            assert ("403" in described["responses"]) == (operation.needs in SCOPES)
            if operation.needs not in (PUBLIC, ANY_KEY):
                assert f"`{operation.needs}`" in described["description"]


def test_the_answer_to_an_order_is_what_the_document_says() -> None:
    plain = Order(ID, ID, 2, Decimal("0.10"), Decimal("0.20"), NOW, "PENDING")
    check(msgspec.json.decode(encode_order(plain)), schema_of(ORDERS, "AcceptedOrder"), ORDERS)
    detailed = msgspec.structs.replace(plain, reference="4711-a", metadata={"cart": "c-80211"})
    answer = msgspec.json.decode(encode_order(detailed))
    check(answer, schema_of(ORDERS, "AcceptedOrder"), ORDERS)
    assert answer.keys() == schema_of(ORDERS, "AcceptedOrder")["properties"].keys()
    assert not is_valid({**answer, "client": "else"}, schema_of(ORDERS, "AcceptedOrder"), ORDERS)
    assert not is_valid({**answer, "status": "PROCESSED"}, schema_of(ORDERS, "AcceptedOrder"), ORDERS)


@pytest.mark.parametrize(
    "order",
    [
        OrderView(ID, "PENDING", False),
        OrderView(ID, "FAILED", False, reason="unreadable"),
        OrderView(ID, "PROCESSED", True, ID, 2, Decimal("0.10"), Decimal("0.20"), NOW),
    ],
)
def test_an_order_that_is_read_is_what_the_document_says(order: OrderView) -> None:
    answer = msgspec.json.decode(encode_view(order))
    check(answer, schema_of(ORDERS, "OrderView"), ORDERS)
    for wrong in ({"status": "DONE"}, {"id": "1"}, {"reason": None}, {"else": 1}):
        assert not is_valid(answer | wrong, schema_of(ORDERS, "OrderView"), ORDERS)


def test_a_product_that_is_read_is_what_the_document_says() -> None:
    answer = msgspec.json.decode(encode_product(Product(ID, "x", Decimal("9999999999.99"), 10**15, NOW)))
    check(answer, schema_of(PRODUCTS, "Product"), PRODUCTS)
    for wrong in ({"price": "1.00"}, {"price": -0.01}, {"qty": -1}, {"version": 1}):
        assert not is_valid(answer | wrong, schema_of(PRODUCTS, "Product"), PRODUCTS)


def test_health_is_what_the_document_says() -> None:
    check(Health("ingest_api", "broker").summary(), schema_of(ORDERS, "Summary"), ORDERS)


def test_a_problem_with_all_that_it_can_have_is_what_the_document_says() -> None:
    errors = [problems.FieldError("x", pointer="#/quantity"), problems.FieldError("y", parameter="limit")]
    check(msgspec.json.decode(problems.invalid_values(errors).body()), schema_of(PRODUCTS, "ProblemDetails"), PRODUCTS)


@DOCUMENTS
def test_no_body_has_members_that_are_not_described(document: Json) -> None:
    for schema in document["components"]["schemas"].values():
        assert schema["additionalProperties"] is False or schema.get("type") != "object"


@DOCUMENTS
def test_every_operation_but_a_probe_and_the_page_refuses_a_query_that_it_does_not_take(document: Json) -> None:
    refusing = {
        it["operationId"]
        for it in operations_of(document)
        if example_of(problem_kinds.INVALID_QUERY)["type"] in str(it["responses"].get("400"))
    }
    ignoring = {it["operationId"] for it in operations_of(document)} - refusing
    assert ignoring == {"describeService", "getLiveness", "getReadiness"}


def test_the_examples_of_orders_are_taken() -> None:
    for example in examples_of("acceptOrder", ORDERS):
        decode_request(example)
    for example in examples_of("acceptOrders", ORDERS):
        assert all(isinstance(read(it), OrderRequest) for it in split(example, is_ndjson=False))
    for example in examples_of("acceptOrders", ORDERS, "application/x-ndjson"):
        assert len(split(msgspec.json.decode(example, type=str).encode(), is_ndjson=True)) == 2


def test_the_examples_of_products_are_taken() -> None:
    for operation_id in ("createProduct", "replaceProduct"):
        for example in examples_of(operation_id, PRODUCTS):
            decode_product(example)
    for example in examples_of("patchProduct", PRODUCTS):
        decode_patch(example)
    for example in examples_of("restockProduct", PRODUCTS):
        decode_restock(example)


def examples_of(operation_id: str, document: Json, media_type: str = "application/json") -> list[bytes]:
    content = operation_of(document, operation_id)["requestBody"]["content"][media_type]
    return [msgspec.json.encode(it["value"]) for it in content["examples"].values()]


@pytest.mark.parametrize(
    "wrong", [{"quantity": 0}, {"quantity": 1_000_001}, {"quantity": "1"}, {"productId": 1}, {"unknown": 1}]
)
def test_an_order_outside_the_bounds_is_outside_of_the_schema(wrong: Json) -> None:
    request = {"productId": ID, "quantity": 1}
    assert is_valid(request, schema_of(ORDERS, "OrderRequest"), ORDERS)
    assert not is_valid(request | wrong, schema_of(ORDERS, "OrderRequest"), ORDERS)
    with pytest.raises(problems.Problem):
        decode_request(msgspec.json.encode(request | wrong))


@pytest.mark.parametrize("price", [0, 19.99, 1e3, "0", "19.9", "9999999999.99"])
def test_a_price_that_is_taken_is_in_the_schema(price: Json) -> None:
    request = {"name": "x", "price": price, "qty": 0}
    check(request, schema_of(PRODUCTS, "ProductRequest"), PRODUCTS)
    decode_product(msgspec.json.encode(request))


@pytest.mark.parametrize(
    "wrong",
    [{"price": it} for it in (-1, 10**10, "1,5", "-1", " 1", True, None)]
    + [{"qty": it} for it in (-1, 10**15 + 1, 0.5)]
    + [{"name": it} for it in ("", "   ", "a\0b", "a\nb", "x" * 201, None)],
)
def test_what_a_product_may_not_be_is_not_in_the_schema(wrong: Json) -> None:
    request = {"name": "x", "price": 1, "qty": 0} | wrong
    assert not is_valid(request, schema_of(PRODUCTS, "ProductRequest"), PRODUCTS)
    with pytest.raises(problems.Problem):
        decode_product(msgspec.json.encode(request))


def test_the_form_of_an_idempotency_key_is_that_of_its_parser() -> None:
    (key,) = (it for it in operation_of(ORDERS, "acceptOrder")["parameters"] if it["name"] == "Idempotency-Key")
    parsed = idempotency_keys._KEY
    values = [bytes([first, second]) for first in range(0x20, 0x80) for second in range(0x20, 0x80)]
    values += [b"", b'""', b'"a"', b'"a b"', b"x" * 255, b"x" * 256, b'"' + b"x" * 255 + b'"', b'"' + b"x" * 256 + b'"']
    for value in values:
        assert bool(parsed.fullmatch(value)) == is_valid(value.decode(), key["schema"], ORDERS), value


def test_a_service_that_is_set_to_answer_201_says_so() -> None:
    document = as_sent(ingest_documents.openapi(201))
    for operation_id in ("acceptOrder", "acceptOrders"):
        statuses = operation_of(document, operation_id)["responses"].keys()
        assert "201" in statuses
        assert "202" not in statuses


@DOCUMENTS
def test_the_version_is_that_of_the_project(document: Json) -> None:
    pyproject = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())
    assert document["info"]["version"] == pyproject["project"]["version"]
