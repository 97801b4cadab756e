"""The documents that ingest_api serves to its clients: OpenAPI and AsyncAPI."""

from dataclasses import replace
from typing import Any

from starlette.routing import Route

from ingest_api.documents.asyncapi import asyncapi_document
from ingest_api.documents.event_operations import TAG as EVENTS_TAG
from ingest_api.documents.event_operations import TAG_TEXT as EVENTS_TEXT
from ingest_api.documents.operations import ACCEPTED, OPERATIONS, TAG_TEXT
from ingest_api.documents.order_fields import TAG
from web.documents.docs import Api, docs_routes, document_of
from web.requests.operations import Operation

_ABOUT = (
    "Takes orders. A 202 means that the order is on disk, and will be decided once. Another service has the products,"
    " with a page like this one."
)
# Those that may answer 201 instead of 202, see INGEST_API_ACCEPTED_STATUS.
_ACCEPTING = ("acceptOrder", "acceptOrders")


def openapi(accepted_status: int = ACCEPTED, public_path: str = "") -> dict[str, Any]:
    """The OpenAPI document. `accepted_status`: the status that the service is set to answer to an order."""
    return document_of(_api(accepted_status, public_path))


def documents(accepted_status: int, public_path: str, products_url: str) -> list[Route]:
    """The routes. `products_url`: where people find product_api; empty: not known."""
    return docs_routes(_api(accepted_status, public_path, products_url), {"/asyncapi.json": asyncapi_document()})


def _api(accepted_status: int, public_path: str, products_url: str = "") -> Api:
    operations = [_answering(accepted_status, it) for it in OPERATIONS]
    tags = {TAG: TAG_TEXT, EVENTS_TAG: EVENTS_TEXT}
    others = {"products": products_url} if products_url else {}
    return Api("ingest_api", "Headrace: orders", _ABOUT, tags, operations, public_path, others)


def _answering(accepted_status: int, operation: Operation) -> Operation:
    if operation.id not in _ACCEPTING:
        return operation
    answers = [replace(it, status=accepted_status) if it.status == ACCEPTED else it for it in operation.answers]
    return replace(operation, answers=tuple(answers))
