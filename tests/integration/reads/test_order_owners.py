"""Whose order it is: a client reads its own, one by one and in lists, and walks past nobody else's."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from database.connection import Connection
from database.dead_letters import DeadLetter
from ingest_api.reads.order_walks import Stretch, Wanted, ends_query, furthest, walks_for
from ingest_api.reads.stored_orders import listed
from persist_worker.write import prepare, write
from pipeline.broker.deliveries import Delivery
from pipeline.broker.incoming import read
from pipeline.contract.order_ids import OrderIds
from pipeline.contract.orders import SCHEMA, Order, encode_order
from tests.support.data.orders import T0, body_of, order
from tests.support.scenes.order_reads import Reads, decide_order, notify, order_reads, park_order, store_order
from tests.support.services.ingest import ORDERS, check_problem, execute
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually
from web.requests.paging import Page

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
        assert (await reads.get(path + query, "rival")).json() == {"id": ours, "status": "PENDING", "final": False}
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


@pytest.mark.parametrize("is_ours", [True, False])
async def test_why_an_order_could_not_be_stored_is_for_its_client_and_who_sees_all(
    reads: Reads, database_url: str, order_id_key: str, is_ours: bool
) -> None:
    """To others it is what any id is. Whoever has its 202 is never told 404."""
    parked = OrderIds(order_id_key).mint() if is_ours else str(uuid.uuid4())
    await park_order(database_url, parked, "persist", "invalid_data", f'[{{"id":"{parked}","client":"shop"}}]'.encode())
    failed, path = {"id": parked, "status": "FAILED", "final": False, "reason": "invalid_data"}, f"{ORDERS}/{parked}"
    for query in ("", "?wait=0.3"):
        assert (await reads.get(path + query, "shop")).json() == failed
        assert (await reads.get(path + query, "rival", sees_all=True)).json() == failed
        assert (await reads.get(path + query)).json() == failed  # an open service asks nobody who they are
        began = time.monotonic()
        other = await reads.get(path + query, "rival")
        if is_ours:
            assert other.json() == {"id": parked, "status": "PENDING", "final": False}
            assert time.monotonic() - began >= (0.3 if query else 0), "that something is known shows"
        else:
            check_problem(other, 404, "not-found")


async def test_a_discarded_order_is_failed_for_ever_to_its_client_and_pending_to_others(
    reads: Reads, database_url: str, order_id_key: str
) -> None:
    parked = OrderIds(order_id_key).mint()
    await park_order(database_url, parked, "persist", "invalid_data", f'[{{"id":"{parked}","client":"shop"}}]'.encode())
    verdict = "INSERT INTO stock_ledger (order_id, outcome, reason) VALUES ($1, 'FAILED', 'invalid_data')"
    await execute(database_url, verdict, parked)
    await execute(database_url, "UPDATE dead_letters SET discarded_at = now(), discard_reason = 'a test order'")
    path = f"{ORDERS}/{parked}"
    assert (await reads.get(path, "shop")).json() == {
        "id": parked,
        "status": "FAILED",
        "final": True,
        "reason": "invalid_data",
    }
    assert (await reads.get(path, "rival")).json() == {"id": parked, "status": "PENDING", "final": False}


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[",
        '[{"id":ID}]',
        '[{"id":ID,"client":7}]',
        '[{"id":ID,"client":""}]',
        '[{"client":"shop"}]',
        '[{"id":"another","client":"shop"}]',
        '[{"id":ID,"client":"shop"},{"id":ID,"client":"rival"}]',
        "x" * 100_000,
    ],
)
async def test_where_a_dead_letter_does_not_say_whose_it_is_only_who_sees_all_learns_why(
    reads: Reads, database_url: str, order_id_key: str, body: str
) -> None:
    parked = OrderIds(order_id_key).mint()
    letter = body.replace("ID", f'"{parked}"').encode()
    await park_order(database_url, parked, "persist", "unreadable", letter)
    assert (await reads.get(f"{ORDERS}/{parked}", "shop")).json() == {"id": parked, "status": "PENDING", "final": False}
    assert (await reads.get(f"{ORDERS}/{parked}", "shop", sees_all=True)).json()["reason"] == "unreadable"


async def test_the_client_of_an_order_that_persist_worker_parked_learns_why(
    reads: Reads, database_url: str, order_id_key: str
) -> None:
    """With the letters as persist_worker writes them, whichever way it found the fault."""
    mint = OrderIds(order_id_key).mint
    refused, malformed = (order(_ID, 2**40, id=mint(), client="shop") for _ in range(2))
    body = body_of(refused, malformed).replace(encode_order(malformed), _without_quantity(malformed))
    incoming = read([Delivery(1, body, SCHEMA, 1, redelivered=False)])
    async with connected(database_url) as connection:
        await prepare(connection)
        written = await write(connection, incoming.orders, [DeadLetter.of(it) for it in incoming.unreadable])
    assert {it.order_id: it.reason for it in written.parked} == {refused.id: "invalid_data", malformed.id: "unreadable"}
    for letter in written.parked:
        told = (await reads.get(f"{ORDERS}/{letter.order_id}", "shop")).json()
        assert (told["status"], told.get("reason")) == ("FAILED", letter.reason)


def _without_quantity(it: Order) -> bytes:
    return encode_order(it).replace(f'"quantity":{it.quantity}'.encode(), b'"quantity":"no"')


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
        page = Page.read({}, [])
        for wanted, index in (
            (Wanted("shop", _ID), "orders_of_client"),
            (Wanted(product=_ID), "orders_with_product"),
            (Wanted("client-7"), "orders_of_client"),
            (Wanted(), "orders_newest"),
        ):
            plan = await _plan(connection, wanted, page)
            assert index in plan
            assert "Seq Scan on orders" not in plan
            assert "Rows Removed by Filter" not in plan


async def _plan(connection: Connection, wanted: Wanted, page: Page) -> str:
    """How PostgreSQL reads the page, after it was asked where that ends."""
    stretch, walks = Stretch.of(page), walks_for(wanted)
    ends = ends_query(walks, wanted, stretch, page)
    found = {row["walk"]: row["at"] for row in await connection.fetch(ends.sql, *ends.values)}
    walk, end = furthest(walks, found)
    query = listed(walk, wanted, Stretch(stretch.before, end), page)
    rows = await connection.fetch(f"EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF) {query.sql}", *query.values)
    return "\n".join(row[0] for row in rows)
