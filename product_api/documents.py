"""The documents that product_api serves to its clients."""

from typing import Any

from starlette.routing import Route

from product_api.operations import OPERATIONS, TAG, TAG_TEXT
from web.documents.docs import Api, docs_routes, document_of

_ABOUT = "Keeps products and their stock. Another service takes orders, with a page like this one."


def openapi(public_path: str = "") -> dict[str, Any]:
    return document_of(_api(public_path))


def documents(public_path: str, orders_url: str) -> list[Route]:
    """The routes. `orders_url`: where people find ingest_api; empty: not known."""
    return docs_routes(_api(public_path, orders_url))


def _api(public_path: str, orders_url: str = "") -> Api:
    others = {"orders": orders_url} if orders_url else {}
    return Api("product_api", "Headrace: products", _ABOUT, {TAG: TAG_TEXT}, OPERATIONS, public_path, others)
