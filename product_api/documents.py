"""The documents that product_api serves to its clients."""

from typing import Any

from starlette.routing import Route

from product_api.operations import OPERATIONS, TAG, TAG_TEXT
from web.documents.docs import docs_routes, document_of

_ABOUT = """\
Products and their stock. Orders are another service's, with a page like this one.
"""


def openapi(public_path: str = "") -> dict[str, Any]:
    return document_of("Headrace: products", _ABOUT, {TAG: TAG_TEXT}, OPERATIONS, public_path)


def documents(public_path: str) -> list[Route]:
    return docs_routes(openapi(public_path), OPERATIONS)
