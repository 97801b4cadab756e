"""Whose order it is: a client reads its own, one by one and in lists, and walks past nobody else's."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from database.connection import Connection
from ingest_api.stored_orders import ALL_OF_PRODUCT, THEIRS_OF_PRODUCT
from pipeline.order_ids import OrderIds
from tests.conditions import eventually
from tests.ingest import ORDERS, check_problem
from tests.order_reads import Reads, decide_order, notify, order_reads, store_order
from tests.orders import T0
from tests.workers import connected

_ID = "01a20267-97ad-7199-a6a6-540000cf26ec"
_LIST = f"{ORDERS}/product/{_ID}"


@pytest.fixture
async def reads(environment: dict[str, str]) -> AsyncIterator[Reads]:
    async with order_reads(environment) as it:
        yield it


async def test_another_clients_order_is_not_there(reads: Reads, database_url: str, order_id_key: str) -> None:
    ours = OrderIds(order_id_key).mint()
    path = f"{ORDERS}/{ours}"
    for query in ("", "?wait=0.1"):  # not stored yet: PENDING says nothing that the id did not
        assert (await reads.get(path + query, "rival")).json() == {"id": ours, "status": "PENDING"}
    waiting = asyncio.create_task(reads.get(f"{path}?wait=30", "rival"))
    await eventually(lambda: reads.orders.selected == 4)
    await store_order(database_url, _ID, order_id=ours, client="shop")
    for query in ("", "?wait=30"):
        check_problem(await reads.get(path + query, "rival"), 404, "not-found")
    assert (await reads.get(path, "shop")).json()["quantity"] == 2
    assert (await reads.get(path, "rival", sees_all=True)).json()["quantity"] == 2
    await decide_order(database_url, ours, _ID)
    await notify(database_url)
    check_problem(await waiting, 404, "not-found")
    assert (await reads.get(f"{path}?wait=30", "shop")).json()["status"] == "PROCESSED"


async def test_an_order_made_while_the_service_was_open_is_for_who_sees_all(reads: Reads, database_url: str) -> None:
    path = f"{ORDERS}/{await store_order(database_url, _ID)}"
    check_problem(await reads.get(path, "shop"), 404, "not-found")
    assert (await reads.get(path, "shop", sees_all=True)).status_code == 200
    assert (await reads.get(path)).status_code == 200


async def test_a_client_lists_its_own_orders_and_who_sees_all_lists_all(reads: Reads, database_url: str) -> None:
    mine = await store_order(database_url, _ID, client="shop")
    theirs = await store_order(database_url, _ID, client="rival", at=T0 + timedelta(seconds=1))
    nobodys = await store_order(database_url, _ID, at=T0 + timedelta(seconds=2))

    async def listed(client: str, query: str = "", *, sees_all: bool = False) -> list[str]:
        return [it["id"] for it in (await reads.get(f"{_LIST}{query}", client, sees_all=sees_all)).json()]

    for query in ("", "", "?limit=500"):  # from PostgreSQL, from the cache, and past it
        assert await listed("shop", query) == [mine]
        assert await listed("rival", query) == [theirs]
        assert await listed("newcomer", query) == []
        assert await listed("shop", query, sees_all=True) == [nobodys, theirs, mine]
        assert await listed("", query) == [nobodys, theirs, mine]
    assert reads.orders.selected == 4 + 5


async def test_pages_of_a_client_are_without_gaps_or_repeats(reads: Reads, database_url: str) -> None:
    mine = [await store_order(database_url, _ID, client="shop") for _ in range(7)]
    for _ in range(7):
        await store_order(database_url, _ID, client="rival")
    seen: list[str] = []
    path: str | None = f"{_LIST}?limit=3"
    while path:
        response = await reads.get(path, "shop")
        seen += [it["id"] for it in response.json()]
        path = response.links["next"]["url"] if "next" in response.links else None
    assert seen == sorted(mine, reverse=True)


async def test_a_page_of_a_client_walks_past_nobody_elses_orders(database_url: str) -> None:
    """A hot product with 20,000 orders of a hundred clients, and the three of one that began before all of them."""
    async with connected(database_url) as connection:
        await connection.execute(
            """
            INSERT INTO orders (id, product_id, quantity, unit_price, total_price, accepted_at, client)
            SELECT gen_random_uuid(), $1, 1, 1, 1, $2::timestamptz + n * interval '1 ms',
                   CASE WHEN n > 3 THEN 'client-' || n % 100 ELSE 'shop' END
            FROM generate_series(1, 20000) n
            """,
            _ID,
            T0,
        )
        await connection.execute("ANALYZE orders")
        values = (_ID, T0 + timedelta(days=1), str(uuid.UUID(int=2**128 - 1)), 51)
        theirs = await _plan(connection, THEIRS_OF_PRODUCT, *values, "shop")
        assert "orders_of_product_by_client" in theirs
        everybody = await _plan(connection, ALL_OF_PRODUCT, *values)
        assert "orders_of_product on" in everybody
        for plan in (theirs, everybody):
            assert "Seq Scan on orders" not in plan
            assert "Rows Removed by Filter" not in plan
            assert "Sort" not in plan.partition("orders_of_product")[0].partition("Nested Loop")[2]


async def _plan(connection: Connection, query: str, *values: object) -> str:
    rows = await connection.fetch(f"EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF) {query}", *values)
    return "\n".join(row[0] for row in rows)
