"""GET /api/v1/orders: every filter and combination, whose orders, and pages that end early."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import product as combinations
from typing import Any

import pytest

from ingest_api.reads import order_walks
from tests.integration.reads.test_fair_reads import lists_at_work
from tests.support.data.orders import T0
from tests.support.scenes.order_reads import Reads, cancel_order, decide_order, order_reads, park_order, store_order
from tests.support.services.ingest import ORDERS, check_problem, execute
from tests.support.services.workers import add_product, connected
from tests.support.time.conditions import eventually

PRODUCTS = [str(uuid.UUID(int=number)) for number in (1, 2, 3)]
CLIENTS = ("shop", "rival", None)
SEED = 20260105
# The status that a client is shown.
_SHOWN = {"PARKED": "FAILED", "RETURNED": "CANCELLED"}

_INSERT = """
    INSERT INTO orders
        (id, line, line_count, product_id, quantity, unit_price, total_price, accepted_at, client, reference)
    VALUES ($1, $2, $3, $4, 1, 1, 1, $5, $6, $7)
"""


@dataclass(frozen=True)
class Known:
    """An order, as the tests know it."""

    id: str
    at: datetime
    client: str | None
    reference: str | None
    products: tuple[str, ...]
    status: str


@pytest.fixture
async def reads(environment: dict[str, str]) -> AsyncIterator[Reads]:
    async with order_reads(environment) as it:
        yield it


@pytest.fixture
async def products(database_url: str) -> None:
    """There are the products: a cancelled order gives its units back."""
    async with connected(database_url) as connection:
        for it in PRODUCTS:
            await add_product(connection, it, 0)


@pytest.fixture
def pages_of_seven_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_walks, "MOST_ROWS", 7)


def some_orders(chance: random.Random, number: int) -> list[Known]:
    """Random ones, several in each microsecond. One in eight has two lines."""
    return [
        Known(
            str(uuid.UUID(int=chance.getrandbits(128))),
            T0 + timedelta(microseconds=chance.randrange(number // 3)),
            chance.choice(CLIENTS),
            chance.choice((None, None, "A-1", "A-2")),
            tuple(chance.sample(PRODUCTS, 2 if chance.random() < 0.125 else 1)),
            chance.choice(("PENDING", "PROCESSED", "PROCESSED", "FAILED", "PARKED", "CANCELLED", "RETURNED")),
        )
        for _ in range(number)
    ]


async def store(database_url: str, orders: Sequence[Known]) -> None:
    async with connected(database_url) as connection:
        rows = [
            (it.id, line, len(it.products) if len(it.products) > 1 else None, product, it.at, it.client, it.reference)
            for it in orders
            for line, product in enumerate(it.products)
        ]
        await connection.executemany(_INSERT, rows)
    for it in orders:
        if it.status == "PARKED":
            await park_order(database_url, it.id, "stock", "invalid_data", it.id.encode())
        elif it.status == "CANCELLED":
            await cancel_order(database_url, it.id)
        elif it.status != "PENDING":
            reason = "out_of_stock" if it.status == "FAILED" else None
            await decide_order(database_url, it.id, it.products[0], reason)
            if it.status == "RETURNED":
                await cancel_order(database_url, it.id)


def expected(orders: Sequence[Known], owner: str | None, query: Mapping[str, Any]) -> list[str]:
    """What a list holds, newest first, found without an index."""

    def passes(it: Known) -> bool:
        return (
            (owner is None or it.client == owner)
            and query.get("reference") in (None, it.reference)
            and (query.get("product") is None or query["product"] in it.products)
            and query.get("status") in (None, _SHOWN.get(it.status, it.status))
            and (query.get("since") is None or it.at >= query["since"])
            and (query.get("until") is None or it.at < query["until"])
        )

    found = sorted(filter(passes, orders), key=lambda it: (it.at, it.id), reverse=True)
    return [it.id for it in found]


async def walk(reads: Reads, query: Mapping[str, Any], client: str = "", *, sees_all: bool = False) -> list[list[str]]:
    """The ids on each page, from the first to the last."""
    given = {name: it.isoformat() if isinstance(it, datetime) else it for name, it in query.items() if it is not None}
    headers = {"Authorization": f"{client} {'ops' if sees_all else ''}"} if client else {}
    response = await reads.http.get(ORDERS, params=given, headers=headers)
    pages = []
    while True:
        assert response.status_code == 200, response.text
        pages.append([it["id"] for it in response.json()])
        if "next" not in response.links:
            return pages
        response = await reads.http.get(response.links["next"]["url"], headers=headers)


def flat(pages: Sequence[Sequence[str]]) -> list[str]:
    return [it for page in pages for it in page]


# ── filters


async def test_walking_all_pages_of_any_filter_gives_what_a_look_at_every_order_gives(
    reads: Reads, database_url: str, products: None, pages_of_seven_rows: None
) -> None:
    """Random orders, every combination of filters, for an open service, for a client and for one that sees all."""
    chance = random.Random(SEED)
    orders = some_orders(chance, 120)
    # A basket has a primary key of its own only once lines have one.
    await execute(database_url, "ALTER TABLE orders DROP CONSTRAINT orders_pkey")
    await store(database_url, orders)
    times = (None, T0 + timedelta(microseconds=12))
    for reference, product, status, since, until in combinations(
        (None, "A-1", "A-9"),
        (None, PRODUCTS[0]),
        (None, "PENDING", "PROCESSED", "FAILED", "CANCELLED"),
        times,
        (None, T0 + timedelta(microseconds=30)),
    ):
        query = {"reference": reference, "product": product, "status": status, "since": since, "until": until}
        limit = {"limit": chance.choice((1, 3, 50))}
        for client, sees_all, owner in (("", False, None), ("shop", False, "shop"), ("rival", True, None)):
            pages = await walk(reads, query | limit, client, sees_all=sees_all)
            assert flat(pages) == expected(orders, owner, query), (query, client)
            assert all(len(page) <= limit["limit"] for page in pages)


async def test_a_page_that_examined_all_it_may_goes_on_below_though_it_is_empty(
    reads: Reads, database_url: str, pages_of_seven_rows: None
) -> None:
    """One old order without a verdict, below twenty-one with one."""
    await store(database_url, [Known(str(uuid.uuid4()), T0, None, None, (PRODUCTS[0],), "PENDING")])
    decided = [
        Known(str(uuid.uuid4()), T0 + timedelta(seconds=1 + it), None, None, (PRODUCTS[0],), "PROCESSED")
        for it in range(21)
    ]
    await store(database_url, decided)
    pages = await walk(reads, {"status": "PENDING"})
    assert [len(page) for page in pages] == [0, 0, 0, 1]


async def test_of_two_indexes_the_one_that_passes_fewer_rows_is_walked(
    reads: Reads, database_url: str, pages_of_seven_rows: None
) -> None:
    """The client's three orders of a product that others order a lot, and the product's three of a large client."""
    mine = [await store_order(database_url, PRODUCTS[0], client="small") for _ in range(3)]
    rare = [await store_order(database_url, PRODUCTS[1], client="large") for _ in range(3)]
    for number in range(30):
        await store_order(database_url, PRODUCTS[0], client="large", at=T0 + timedelta(seconds=number))
    assert await walk(reads, {"product": PRODUCTS[0]}, "small") == [sorted(mine, reverse=True)]
    assert await walk(reads, {"product": PRODUCTS[1]}, "large") == [sorted(rare, reverse=True)]


async def test_orders_of_one_moment_are_all_listed_though_they_are_more_than_a_page_examines(
    reads: Reads, database_url: str, pages_of_seven_rows: None
) -> None:
    """As those of a bulk request are."""
    ids = [await store_order(database_url, PRODUCTS[0]) for _ in range(25)]
    for query in ({"limit": 3}, {"limit": 3, "status": "PENDING"}, {"limit": 3, "product": PRODUCTS[0]}):
        assert flat(await walk(reads, query)) == sorted(ids, reverse=True)


async def test_pages_stay_without_gaps_or_repeats_while_orders_arrive_and_are_decided(
    reads: Reads, database_url: str, pages_of_seven_rows: None
) -> None:
    ids = [await store_order(database_url, PRODUCTS[0], at=T0 + timedelta(seconds=it)) for it in range(20)]
    seen: list[str] = []
    path: str | None = f"{ORDERS}?status=PENDING&limit=2"
    while path:
        response = await reads.get(path)
        seen += [it["id"] for it in response.json()]
        path = response.links["next"]["url"] if "next" in response.links else None
        new = await store_order(database_url, PRODUCTS[0], at=T0 + timedelta(days=1))
        await decide_order(database_url, new, PRODUCTS[0])
        if seen:
            await decide_order(database_url, seen[-1], PRODUCTS[0])
    assert seen == ids[::-1]


# ── FAILED


async def test_an_order_that_failed_and_was_processed_after_its_replay_is_not_listed_as_failed(
    reads: Reads, database_url: str
) -> None:
    order_id = await store_order(database_url, PRODUCTS[0])
    await park_order(database_url, order_id, "stock", "invalid_data", order_id.encode())
    (failed,) = (await reads.get(f"{ORDERS}?status=FAILED")).json()
    assert (failed["id"], failed["reason"], failed["final"]) == (order_id, "invalid_data", False)
    await execute(database_url, "UPDATE dead_letters SET replayed_at = now()")
    assert (await reads.get(f"{ORDERS}?status=FAILED")).json() == []
    assert [it["id"] for it in (await reads.get(f"{ORDERS}?status=PENDING")).json()] == [order_id]
    await decide_order(database_url, order_id, PRODUCTS[0])
    assert (await reads.get(f"{ORDERS}?status=FAILED")).json() == []
    assert [it["id"] for it in (await reads.get(f"{ORDERS}?status=PROCESSED")).json()] == [order_id]


async def test_an_order_that_was_not_stored_is_in_no_list_and_is_found_by_its_id(
    reads: Reads, database_url: str
) -> None:
    parked = str(uuid.uuid4())
    await park_order(database_url, parked, "persist", "invalid_data", f'[{{"id":"{parked}"}}]'.encode())
    for query in ("", "?status=FAILED", "?status=PENDING"):
        assert (await reads.get(ORDERS + query)).json() == []
    assert [it["status"] for it in (await reads.get(f"{ORDERS}?id={parked}")).json()] == ["FAILED"]


async def test_only_failed_and_parked_orders_are_in_the_table_that_finds_failed_ones(database_url: str) -> None:
    ids = {it: await store_order(database_url, PRODUCTS[0]) for it in ("good", "failed", "parked", "parked and failed")}
    async with connected(database_url) as connection:
        await connection.execute(
            "INSERT INTO stock_ledger (order_id, product_id, quantity, outcome, reason)"
            " VALUES ($1, $4, 1, 'PROCESSED', NULL), ($2, $4, 1, 'FAILED', 'out_of_stock'),"
            " ($3, NULL, NULL, 'FAILED', 'discarded before it was stored')",
            ids["good"], ids["failed"], str(uuid.uuid4()), PRODUCTS[0],
        )  # fmt: skip
        for name in ("parked", "parked and failed"):
            await park_order(database_url, ids[name], "stock", "invalid_data", name.encode())
        await park_order(database_url, ids["good"], "persist", "id_conflict", b"another under this id")
        await decide_order(database_url, ids["parked and failed"], PRODUCTS[0], "out_of_stock")
        rows = await connection.fetch("SELECT order_id::text FROM failed_orders")
    assert {row[0] for row in rows} == {ids[it] for it in ("failed", "parked", "parked and failed")}
    assert len(rows) == 3


# ── CANCELLED


async def test_a_cancelled_order_is_cancelled_in_every_list_and_in_no_list_of_another_status(
    reads: Reads, database_url: str, products: None
) -> None:
    processed, early = [await store_order(database_url, PRODUCTS[0], client="shop") for _ in range(2)]
    await decide_order(database_url, processed, PRODUCTS[0])
    assert (await reads.get(f"{ORDERS}?status=CANCELLED")).json() == []
    for order_id in (processed, early):
        await cancel_order(database_url, order_id, "shop", reason="too big")
    for query in ("", "?status=CANCELLED", f"?product={PRODUCTS[0]}", f"?id={processed}&id={early}"):
        listed = (await reads.get(ORDERS + query, "shop")).json()
        assert {it["id"] for it in listed} == {processed, early}
        assert {(it["status"], it["final"], it["cancel_reason"]) for it in listed} == {("CANCELLED", True, "too big")}
        assert listed == [(await reads.get(f"{ORDERS}/{it['id']}")).json() for it in listed]
    for status in ("PENDING", "PROCESSED", "FAILED"):
        assert (await reads.get(f"{ORDERS}?status={status}")).json() == []


async def test_a_cancellation_that_changed_nothing_is_in_no_list(reads: Reads, database_url: str) -> None:
    order_id = await store_order(database_url, PRODUCTS[0], client="shop")
    await cancel_order(database_url, order_id, "stranger")
    await decide_order(database_url, order_id, PRODUCTS[0], "out_of_stock")
    await cancel_order(database_url, order_id, "shop")
    assert (await reads.get(f"{ORDERS}?status=CANCELLED")).json() == []
    assert [it["id"] for it in (await reads.get(f"{ORDERS}?status=FAILED")).json()] == [order_id]


# ── whose


async def test_a_client_finds_nobody_elses_order_by_anything(reads: Reads, database_url: str) -> None:
    order = Known(str(uuid.uuid4()), T0, "shop", "A-1", (PRODUCTS[0],), "FAILED")
    await store(database_url, [order])
    for query in ({}, {"reference": "A-1"}, {"product": PRODUCTS[0]}, {"status": "FAILED"}, {"id": order.id}):
        assert flat(await walk(reads, query, "rival")) == []
        assert flat(await walk(reads, query, "shop")) == [order.id]
        assert flat(await walk(reads, query, "rival", sees_all=True)) == [order.id]
        assert flat(await walk(reads, query)) == [order.id]


async def test_an_order_of_no_client_is_for_those_who_see_all(reads: Reads, database_url: str) -> None:
    order_id = await store_order(database_url, PRODUCTS[0])
    assert flat(await walk(reads, {}, "shop")) == []
    assert flat(await walk(reads, {}, "shop", sees_all=True)) == [order_id]


# ── the answer


async def test_a_list_is_answered_as_its_orders_are_and_next_keeps_the_filters(reads: Reads, database_url: str) -> None:
    ids = [await store_order(database_url, PRODUCTS[0], at=T0 + timedelta(seconds=it)) for it in range(2)]
    response = await reads.get(f"{ORDERS}?limit=1&product={PRODUCTS[0]}&since=2026-01-01T00:00:00%2B01:00")
    assert response.json() == [(await reads.get(f"{ORDERS}/{ids[1]}")).json()]
    assert response.headers["cache-control"] == "no-store"
    link = response.links["next"]["url"]
    assert f"product={PRODUCTS[0]}" in link
    assert "since=2026-01-01T00%3A00%3A00%2B01%3A00" in link
    assert [it["id"] for it in (await reads.get(link)).json()] == [ids[0]]


async def test_a_parameter_that_is_unknown_or_repeated_is_named(reads: Reads) -> None:
    response = await reads.get(f"{ORDERS}?status=FAILED&status=PENDING&state=x&id={PRODUCTS[0]}")
    check_problem(response, 400, "invalid-query")
    assert [it["parameter"] for it in response.json()["errors"]] == ["status", "state"]
    check_problem(await reads.get(f"{ORDERS}?status=failed&since=x"), 422, "invalid-value")


# ── P8


async def test_p8_a_client_searches_while_another_asks_without_end(reads: Reads, database_url: str) -> None:
    order_id = await store_order(database_url, PRODUCTS[0], client="modest")
    async with lists_at_work(reads.orders):
        greedy = [asyncio.create_task(reads.get(f"{ORDERS}?status=PENDING", "reader")) for _ in range(20)]
        await eventually(lambda: any(it.done() for it in greedy))
        modest = asyncio.create_task(reads.get(f"{ORDERS}?status=PENDING", "modest"))
        await asyncio.sleep(0)
    assert [it["id"] for it in (await modest).json()] == [order_id]
    assert {(await it).status_code for it in greedy} == {200, 503}


async def test_a_search_without_postgresql_is_503(environment: dict[str, str]) -> None:
    async with order_reads(environment, timeout_s=0.5) as reads:
        reads.orders._list_breaker.failed(ConnectionError("away"))
        response = await reads.get(ORDERS)
        check_problem(response, 503, "store-unavailable")
        assert int(response.headers["retry-after"]) >= 1
