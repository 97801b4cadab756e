"""Takes requests along the path of an order, through each place that copies a whole order, on a real PostgreSQL.

    python -m tests.support.services.order_path < BODIES     a JSON array of request bodies

Migrates DATABASE_URL, and prints a JSON object: for each place, each order as it is there. It knows no member of an
order by name, so a test can run it in a copy of the repository that has one more.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import cast

from database.connection import Connection
from database.sessions import make_pool
from ingest_api.idempotency.accepted_orders import AcceptedOrders
from ingest_api.idempotency.records import fingerprint_of, pack, unpack
from ingest_api.reads.order_walks import Stretch, Wanted
from ingest_api.reads.stored_orders import ReadLimits, StoredOrders
from ingest_api.requests import AnyRequest, decode_request, requested_lines, to_any_order
from migrations.__main__ import migrate
from persist_worker.write import prepare, write
from pipeline.broker.deliveries import Delivery
from pipeline.broker.incoming import read
from pipeline.contract.order_ids import OrderIds
from pipeline.contract.order_rows import orders_of
from pipeline.contract.order_view import encode, encode_list, view
from pipeline.contract.orders import AnyOrder, encode_order, join_orders, ordered, schema_of_all, with_context
from stack.operate import repair
from web.problems.problems import Problem
from web.requests.paging import _FIRST_PAGE, Page

_CLIENT = "shop"
_LIMITS = ReadLimits(order_connections=1, list_connections=1, max_orders=1_000, max_lists=1, timeout_s=10)


def accept(bodies: list[str]) -> tuple[list[AnyRequest], list[AnyOrder]]:
    """What ingest_api makes of the bodies."""
    ids, requests = OrderIds("6b" * 32), [decode_request(body.encode()) for body in bodies]
    price, now = Decimal("12.50"), datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    prices = [[price] * len(requested_lines(it)) for it in requests]
    return requests, [to_any_order(ids.mint(), *it, now) for it in zip(requests, prices, strict=True)]


async def main(database_url: str, bodies: list[str]) -> dict[str, list[object]]:
    requests, orders = accept(bodies)
    answers = [encode_order(it) for it in orders]
    hashes = [fingerprint_of(it).hex() for it in orders]
    message = join_orders(with_context(it, None, made_of, _CLIENT) for it, made_of in zip(answers, hashes, strict=True))
    _, again = unpack(pack(202, orders), [it.id for it in orders], requests)
    await migrate(database_url)
    async with make_pool(database_url, "order_path", 1, 10) as pool, pool.acquire() as pooled:
        connection = cast("Connection", pooled)
        await prepare(connection)
        incoming = read([Delivery(1, message, schema_of_all(orders), len(orders), redelivered=False)])
        half = len(orders) // 2
        for some in (incoming.orders[:half], incoming.orders):  # the direct path, and the one for duplicates
            await write(connection, some, [])
        rows = await connection.fetch(repair._ORDERS, [it.id for it in orders])
    return {
        "answer": _read(answers),
        "answer to a retry, remembered": _read([encode_order(it) for it in again if not isinstance(it, Problem)]),
        "message": _read([encode_order(it) for it in incoming.orders]),
        "message of verify --repair": _read([encode_order(it) for it in orders_of(rows)]),
        **await _answers_from_the_store(database_url, orders),
    }


async def _answers_from_the_store(database_url: str, orders: list[AnyOrder]) -> dict[str, list[object]]:
    """What ingest_api answers of stored orders. All are of one product."""
    async with make_pool(database_url, "order_path", 1, 10) as pool:
        stored, accepted = StoredOrders(pool, pool, _LIMITS), AcceptedOrders(pool, 10)
        retried = await accepted.find([it.id for it in orders])
        single = await stored.find([it.id for it in orders], _CLIENT)
        page = Page(_FIRST_PAGE, len(orders))
        listed = await stored.page(Wanted(product=ordered(orders[0])[0][0]), Stretch.of(page), page, _CLIENT)
    return {
        "answer to a retry, stored": _read(encode_order(retried[it.id]) for it in orders),
        "GET of an order": _read(encode(view(single[it.id])) for it in orders),
        "GET of a product's orders": json.loads(encode_list(listed.rows))[::-1],
    }


def _read(encoded: Iterable[bytes]) -> list[object]:
    return [json.loads(it) for it in encoded]


if __name__ == "__main__":
    json.dump(asyncio.run(main(os.environ["DATABASE_URL"], json.load(sys.stdin))), sys.stdout)
