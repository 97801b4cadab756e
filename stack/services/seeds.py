"""Two products to try the first orders on, made through the front door like anybody's.

python -m stack.services.seeds       the job `seeds` of docker-compose.yml; reads PRODUCT_API_URL
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from stack.errors import HeadraceError
from stack.home.directory import Home
from stack.home.key_file import own_token
from stack.process.http import get, post_json

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


def main() -> None:
    try:
        print(plant(os.environ["PRODUCT_API_URL"], own_token(Home.current())))
    except HeadraceError as error:
        sys.exit("\n".join(error.lines()))


if __name__ == "__main__":
    main()
