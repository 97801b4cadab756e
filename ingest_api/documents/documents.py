"""The documents that ingest_api serves to its clients: OpenAPI and AsyncAPI."""

from dataclasses import replace
from typing import Any

from starlette.routing import Route

from ingest_api.documents.asyncapi import asyncapi_document
from ingest_api.documents.operations import ACCEPTED, OPERATIONS, TAG, TAG_TEXT
from web.documents.docs import docs_routes, document_of
from web.requests.operations import Operation

_ABOUT = """\
Takes orders: a 202 means that the order is on disk, and will be decided once. Products are another service's, with a
page like this one.
"""


def openapi(accepted_status: int = ACCEPTED, public_path: str = "") -> dict[str, Any]:
    """The OpenAPI document. `accepted_status`: the status that the service is set to answer to an order."""
    operations = [_answering(accepted_status, it) for it in OPERATIONS]
    return document_of("Headrace: orders", _ABOUT, {TAG: TAG_TEXT}, operations, public_path)


def documents(accepted_status: int, public_path: str) -> list[Route]:
    return docs_routes(openapi(accepted_status, public_path), OPERATIONS, {"/asyncapi.json": asyncapi_document()})


def _answering(accepted_status: int, operation: Operation) -> Operation:
    answers = [replace(it, status=accepted_status) if it.status == ACCEPTED else it for it in operation.answers]
    return replace(operation, answers=tuple(answers))
