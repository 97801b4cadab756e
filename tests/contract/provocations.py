"""Requests that need an exemption which random data needs only by chance. Every run sends them.

schemathesis uses no random numbers, but its data still changes: it takes values from the loaded code, and ids from the
answers. So a new number anywhere in the services changes the draws. Then no draw may need an exemption that one draw in
eight hundred needed before. The schema allows these requests; schemathesis checks that.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.contract.fields import EXAMPLE_PRODUCT
from pipeline.contract.order_events import encode_cursor
from product_api.requests import MAX_QTY

FULL_PRODUCT = "01a20267-9000-7000-8000-000000000f01"
"""Of this product there are MAX_QTY, and no run takes it off sale before the examples are sent."""

_KEY = {"Idempotency-Key": "provoked-0001"}
_PATH = {"product_id": FULL_PRODUCT}
_NOBODYS = "01a20267-9000-7000-8000-0000000000ff"

# By operation: what to change in its first example, container by container.
PROVOCATIONS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "acceptOrder": (
        {"body": {"productId": _NOBODYS, "quantity": 1}},
        {"body": {"productId": EXAMPLE_PRODUCT, "quantity": 2.0}},
        {"body": {"productId": EXAMPLE_PRODUCT, "quantity": 1}, "headers": _KEY},
        {"body": {"productId": EXAMPLE_PRODUCT, "quantity": 2}, "headers": _KEY},
    ),
    "listEvents": (
        {"query": {"after": "no cursor"}, "headers": {}},
        {"query": {"after": encode_cursor(1, 1)}, "headers": {}},
        {"query": {}, "headers": {"Last-Event-ID": encode_cursor(1, 1)}},
    ),
    "listProducts": ({"query": {"before": "no cursor"}},),
    "createProduct": (
        {"body": {"name": "Laptop Demo", "price": 19.999, "qty": 50}},
        {"body": {"name": "\u3164", "price": 1, "qty": 50}},
    ),
    "patchProduct": (
        {"path_parameters": _PATH, "headers": {"If-Match": '"999999999"'}, "body": {"name": "Laptop Demo"}},
        {"path_parameters": _PATH, "headers": {"If-Match": 'W/"1"'}, "body": {"name": "Laptop Demo"}},
        {"path_parameters": _PATH, "headers": {}, "body": {"qty": MAX_QTY}},
        {"path_parameters": _PATH, "headers": {"If-Match": "*"}, "body": {"qty": 23.0}},
    ),
    "restockProduct": ({"path_parameters": _PATH, "headers": {}, "body": {"quantity": 1}},),
}
