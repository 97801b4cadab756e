"""A realistic mix, for a stack that runs: 80 % orders, 15 % reads of one order or product, 5 % lists. For Locust.

Orders are for 1,000 products whose popularity falls as Zipf says: the most popular one gets one order in seven or so,
the next one half as many, and so on. Locust takes some 20 times the CPU of wrk for a request, so how fast Headrace is
`./headrace bench` says; this is for watching a stack under a load like that of a shop.

    ./headrace up -d                        # prints where the APIs are
    ./headrace bench --only noop --quick    # makes .venv-bench, if there was none

With its web UI, at http://localhost:8089, and without:

    .venv-bench/bin/locust -f benchmarks/generators/locustfile.py --host http://127.0.0.1:8080
    .venv-bench/bin/locust -f benchmarks/generators/locustfile.py --host http://127.0.0.1:8080 \\
        --headless --users 64 --spawn-rate 64 --run-time 60s

ORDERS_HOST      ingest_api, in place of --host
PRODUCTS_HOST    product_api; http://127.0.0.1:3000 if it is not set
API_TOKEN_FILE   holds an API key with the scopes orders:write, orders:read and products:write, if the stack has keys
"""

from __future__ import annotations

import json
import os
import random
import sys
import urllib.request
from collections import deque
from itertools import accumulate
from pathlib import Path
from typing import Any

from locust import FastHttpUser, between, events, task

PRODUCTS = 1_000
LISTED = 50
STOCK = 1_000_000
ZIPF_EXPONENT = 1.0
# Orders that reads ask for: of the last ones that were accepted.
REMEMBERED_ORDERS = 10_000

ORDERS_HOST = os.environ.get("ORDERS_HOST", "http://127.0.0.1:8080")
PRODUCTS_HOST = os.environ.get("PRODUCTS_HOST", "http://127.0.0.1:3000")
TOKEN = Path(os.environ.get("API_TOKEN_FILE", os.devnull)).read_text().strip()
HEADERS = {"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}

products: list[str] = []
orders: deque[str] = deque(maxlen=REMEMBERED_ORDERS)


def cumulative_popularity(count: int, exponent: float) -> list[float]:
    """The n-th product is as popular as 1 / n to the power of `exponent`; summed up, as random.choices wants it."""
    return list(accumulate(1 / place**exponent for place in range(1, count + 1)))


POPULARITY = cumulative_popularity(PRODUCTS, ZIPF_EXPONENT)


def popular_product() -> str:
    return random.choices(products, cum_weights=POPULARITY)[0]


# ── I/O below


@events.init.add_listener
def make_products(**_: Any) -> None:
    """Products of this load's own, so that their stock suffices. Ends Locust when they cannot be made.

    When Locust starts, not when a test does: it is not to be taken from the test's time.
    """
    # Without proxies: a proxy of the environment has no business between this and a stack.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        products.extend(make_product(opener, place) for place in range(len(products), PRODUCTS))
    except OSError as error:
        sys.exit(f"cannot make products at {PRODUCTS_HOST}: {error}")


def make_product(opener: urllib.request.OpenerDirector, place: int) -> str:
    """Its id. Raises OSError."""
    body = {"name": f"locust {place}", "price": 1 + place % 100, "qty": STOCK}
    headers = {**HEADERS, "Content-Type": "application/json"}
    url = f"{PRODUCTS_HOST}/products"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")  # noqa: S310 - the user's
    with opener.open(request, timeout=10) as answer:
        product_id: str = json.load(answer)["id"]
    return product_id


class Shop(FastHttpUser):
    """One client of both APIs: orders go to `host`, products are read where PRODUCTS_HOST says."""

    host = ORDERS_HOST
    wait_time = between(0.0, 0.02)

    @task(80)
    def order(self) -> None:
        body = {"productId": popular_product(), "quantity": random.randint(1, 3)}
        with self.client.post("/api/v1/orders", json=body, headers=HEADERS, catch_response=True) as answer:
            if answer.ok:
                orders.append(answer.json()["id"])
                answer.success()

    @task(8)
    def read_order(self) -> None:
        if orders:
            self.client.get(f"/api/v1/orders/{random.choice(orders)}", headers=HEADERS, name="/api/v1/orders/{id}")

    @task(7)
    def read_product(self) -> None:
        self.client.get(f"{PRODUCTS_HOST}/products/{popular_product()}", headers=HEADERS, name="/products/{id}")

    @task(3)
    def list_orders(self) -> None:
        path = f"/api/v1/orders/product/{popular_product()}?limit={LISTED}"
        self.client.get(path, headers=HEADERS, name="/api/v1/orders/product/{id}")

    @task(2)
    def list_products(self) -> None:
        self.client.get(f"{PRODUCTS_HOST}/products?limit={LISTED}", headers=HEADERS, name="/products")
