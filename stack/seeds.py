"""Two products to try the first orders on, made through the front door like anybody's."""

from __future__ import annotations

import json
from typing import Any

from stack.errors import HeadraceError
from stack.http import get, post_json

PRODUCTS = (
    {"name": "Laptop Demo", "price": 1500.00, "qty": 50},
    {"name": "Mechanical Keyboard", "price": 89.90, "qty": 200},
)
TIMEOUT_S = 10


def plant(product_api: str, token: str | None) -> str:
    """Create the demo products unless there are products already; says what it did. `token`: see key_file.own_token.

    Raises HeadraceError.
    """
    if products(product_api, token):
        return "demo products: there are products already"
    for product in PRODUCTS:
        status, body = post_json(f"{product_api}/products", product, TIMEOUT_S, token)
        if status != 201:
            raise HeadraceError(
                f"product_api refused a demo product with {status}", body[:300], "./headrace logs product_api"
            )
    return f"{len(PRODUCTS)} demo products"


def products(product_api: str, token: str | None) -> list[dict[str, Any]]:
    """What GET /products answers. Raises HeadraceError when it is no list of products."""
    status, body = get(f"{product_api}/products", TIMEOUT_S, token)
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if status != 200 or not isinstance(found, list):
        raise HeadraceError(f"GET /products answers {status}", body[:300], "./headrace logs product_api")
    return found
