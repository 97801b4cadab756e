"""GET /api/v1/events in pages: whoever follows `next` gets every event of its own once, at a bounded price."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from urllib.parse import quote

import pytest

from database import event_log, log_follower
from ingest_api.documents.event_operations import EVENTS
from ingest_api.events import reader
from pipeline.contract.order_events import encode_cursor
from product_consumer.ledger import record
from tests.support.data.orders import new_product_id, order
from tests.support.faults.faults import proxy_to
from tests.support.scenes.changing_key import ChangingKey
from tests.support.scenes.events.event_reads import EventReads, event_reads, log_events, next_of, order_ids
from tests.support.services.ingest import Ingest, check_problem
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually
from web.access.clients import OPS

A, B = new_product_id(), new_product_id()


@pytest.fixture
async def reads(environment: dict[str, str]) -> AsyncIterator[EventReads]:
    async with event_reads(environment) as it:
        yield it


async def follow(reads: EventReads, query: str, client: str, *, until: Callable[[list[str]], bool]) -> list[str]:
    """The ids of the orders of all events that come, page by page, until there are enough."""
    found: list[str] = []
    async with asyncio.timeout(15):
        while not until(found):
            page = await reads.get(query, client)
            assert page.status_code == 200, page.text
            found += order_ids(page.json())
            query = "?" + next_of(page).partition("?")[2]
            # The API runs in this process, and answers a page that it holds without a wait. So the follower, which
            # numbers new events, gets its turn here.
            await asyncio.sleep(0)
    return found


# ── every event once


async def test_p11_pages_have_every_event_once_in_the_order_of_the_log(reads: EventReads, database_url: str) -> None:
    ids = await log_events(database_url, 25) + await log_events(database_url, 25, reason="out_of_stock")
    found = await follow(reads, "?limit=7", "", until=lambda it: len(it) >= 50)
    assert found == ids
    events = (await reads.get("?limit=1000")).json()
    assert [it["type"] for it in events] == ["order.processed"] * 25 + ["order.failed"] * 25
    assert {it["sequence"] for it in events} == {1}
    assert events[0]["id"] == f"{ids[0]}.1"
    assert events[-1]["order"]["reason"] == "out_of_stock"


@pytest.mark.parametrize("limit", [9, 10, 11, 20, 35])
async def test_p11_old_pages_are_read_by_several_queries_and_have_every_event_once(
    environment: dict[str, str], database_url: str, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(reader, "_AT_ONCE", 10)
    ids = await log_events(database_url, 101)
    async with connected(database_url) as connection:
        await connection.execute("DELETE FROM stock_ledger WHERE order_id = ANY($1::uuid[])", ids[15:18])
    async with event_reads(environment) as reads:
        await reads.ends_at(101)
        found = await follow(reads, f"?limit={limit}", "", until=lambda it: it[-1:] == ids[-1:])
    assert found == ids[:15] + ids[18:]


async def test_p11_a_committer_that_stalls_is_not_passed(reads: EventReads, database_url: str) -> None:
    """Its events come when it commits, behind those that were committed meanwhile."""
    late = order(A)
    async with connected(database_url) as stalled:
        transaction = stalled.transaction()
        await transaction.start()
        await record(stalled, [late], [])
        early = await log_events(database_url, 3)
        await reads.ends_at(3)
        page = await reads.get()
        assert order_ids(page.json()) == early
        waiting = asyncio.create_task(reads.http.get(next_of(page) + "&wait=20"))
        later = await log_events(database_url, 2)
        assert order_ids((await waiting).json()) == later
        await transaction.commit()
    page = await reads.http.get(next_of(waiting.result()).replace("wait=20", "wait=10"))
    assert order_ids(page.json()) == [late.id]


async def test_an_empty_page_has_a_next_that_goes_on(reads: EventReads, database_url: str) -> None:
    page = await reads.get()
    assert (page.status_code, page.json()) == (200, [])
    ids = await log_events(database_url)
    await reads.ends_at(1)
    assert order_ids((await reads.http.get(next_of(page))).json()) == ids


async def test_next_asks_for_the_same_as_the_page(reads: EventReads) -> None:
    page = await reads.get(f"?product={A.upper()}&types=order.failed,order.parked&limit=3&wait=0.1&after=now")
    link = next_of(page)
    assert f"product={A.upper()}&types=order.failed,order.parked&limit=3&wait=0.1&after=" in link
    assert link.startswith("/api/v1/events?")
    assert page.headers["cache-control"] == "no-store"
    assert (await reads.http.get(link)).status_code == 200


# ── from where on


async def test_a_client_begins_now_at_a_time_or_with_a_cursor(reads: EventReads, database_url: str) -> None:
    old = await log_events(database_url, 3)
    await reads.ends_at(3)
    since = datetime.now(UTC)
    at_now = next_of(await reads.get("?after=now"))
    new = await log_events(database_url, 2)
    await reads.ends_at(5)
    assert order_ids((await reads.http.get(at_now)).json()) == new
    for text in (since.isoformat(), since.isoformat().replace("+00:00", "Z"), since.isoformat().lower()):
        assert order_ids((await reads.get(f"?after={quote(text)}")).json()) == new
    cursor = (await reads.get("?limit=2")).json()[-1]["cursor"]
    assert order_ids((await reads.get(f"?after={cursor}")).json()) == [old[-1], *new]
    assert order_ids((await reads.get("?after=1999-01-01T00:00:00Z")).json()) == old + new
    assert (await reads.get("?after=2999-01-01T00:00:00Z")).json() == []


async def test_a_cursor_of_another_log_is_410_and_says_what_to_do(reads: EventReads, database_url: str) -> None:
    await log_events(database_url, 3)
    await reads.ends_at(3)
    async with connected(database_url) as connection:
        log_id = (await event_log.end(connection)).log_id
    for cursor in (encode_cursor(log_id + 1, 2), encode_cursor(log_id, 4)):
        refused = await reads.get(f"?after={cursor}")
        check_problem(refused, 410, "cursor-unknown")
        assert "after=now" in refused.json()["detail"]


async def test_an_end_that_another_process_has_seen_already_is_known(
    environment: dict[str, str], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two processes, one may have looked a moment ago, and the other not yet."""
    monkeypatch.setattr(log_follower, "_POLL_EVERY_S", 3600.0)
    async with event_reads(environment) as reads, connected(database_url) as other:
        await log_events(database_url, 2, notifies=False)
        end = await event_log.number(other)
        assert (reads.log.last_offset, end.last_offset) == (0, 2)
        assert (await reads.get(f"?after={encode_cursor(end.log_id, 2)}")).json() == []
        assert len((await reads.get(f"?after={encode_cursor(end.log_id, 1)}")).json()) == 1


# ── which of them


async def test_a_client_gets_the_events_of_its_own_orders_and_ops_all(reads: EventReads, database_url: str) -> None:
    shop = await log_events(database_url, 3, client="shop")
    rival = await log_events(database_url, 2, client="rival")
    nobody = await log_events(database_url, 1)
    await reads.ends_at(6)
    assert order_ids((await reads.get(client="shop")).json()) == shop
    assert order_ids((await reads.get(client="rival")).json()) == rival
    assert (await reads.get(client="stranger")).json() == []
    for all_of_them in (await reads.get(client="admin", sees_all=True), await reads.get()):
        assert order_ids(all_of_them.json()) == shop + rival + nobody


async def test_types_and_product_narrow_it_down(reads: EventReads, database_url: str) -> None:
    sold = await log_events(database_url, 2, product_id=A)
    failed = await log_events(database_url, 2, product_id=A, reason="out_of_stock")
    other = await log_events(database_url, 2, product_id=B)
    await reads.ends_at(6)
    assert order_ids((await reads.get("?types=order.processed")).json()) == sold + other
    assert order_ids((await reads.get("?types=order.failed,order.parked")).json()) == failed
    assert order_ids((await reads.get(f"?product={A.upper()}")).json()) == sold + failed
    assert order_ids((await reads.get(f"?product={A}&types=order.failed&limit=1")).json()) == failed[:1]


@pytest.mark.parametrize(("max_passed", "max_s", "empty_pages"), [(100, 60.0, 4), (1_000_000, 0.0, 9)])
async def test_p8_a_search_ends_early_and_next_goes_on_with_it(
    reads: EventReads,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    max_passed: int,
    max_s: float,
    empty_pages: int,
) -> None:
    """A client with one order in thousands pays with requests, and no request lasts."""
    monkeypatch.setattr(reader, "_MAX_PASSED", max_passed)
    monkeypatch.setattr(reader, "_MAX_S", max_s)
    monkeypatch.setattr(reader, "_AT_ONCE", 50)
    await log_events(database_url, 450)
    own = await log_events(database_url, client="shop")
    await reads.ends_at(451)
    pages, query = 0, ""
    while True:
        page = await reads.get(query, "shop")
        if page.json():
            break
        pages, query = pages + 1, "?" + next_of(page).partition("?")[2]
    assert order_ids(page.json()) == own
    assert pages == empty_pages
    # One that may wait does not wait in the middle of a search.
    began = time.monotonic()
    assert (await reads.get("?wait=30", "shop")).json() == []
    assert time.monotonic() - began < 5


# ── waiting


async def test_a_page_that_waits_is_answered_as_soon_as_there_is_an_event(reads: EventReads, database_url: str) -> None:
    waiting = [asyncio.create_task(reads.get("?after=now&wait=30", client)) for client in ("shop", "rival")]
    await eventually(lambda: reads.log._followers == 2)
    await log_events(database_url, 2, client="stranger")
    await reads.ends_at(2)
    assert not any(it.done() for it in waiting)
    own = await log_events(database_url, client="shop")
    assert order_ids((await asyncio.wait_for(waiting[0], 5)).json()) == own
    assert not waiting[1].done()
    reads.stop.set()  # SIGTERM ends the wait, and tells where to go on
    page = await asyncio.wait_for(waiting[1], 5)
    assert (page.status_code, page.json()) == (200, [])
    assert next_of(page)


async def test_a_wait_lasts_as_long_as_it_says(reads: EventReads) -> None:
    began = time.monotonic()
    page = await reads.get("?wait=0.5")
    assert (page.json(), 0.5 <= time.monotonic() - began < 3) == ([], True)


@pytest.mark.parametrize("becomes", ["shop", "rival"])
async def test_a_page_that_waited_shows_nothing_that_its_key_lost_meanwhile(
    environment: dict[str, str], database_url: str, becomes: str
) -> None:
    """It is empty, and its `next` goes on with the key's rights of then."""
    key = ChangingKey("shop", OPS)
    async with event_reads(environment, guard=key) as reads:
        waiting = asyncio.create_task(reads.get("?after=now&wait=30"))
        await eventually(lambda: reads.log._followers == 1)
        key.becomes(becomes)
        await log_events(database_url, client="stranger")
        own = await log_events(database_url, client=becomes)
        page = await asyncio.wait_for(waiting, 5)
        assert page.json() == []
        await reads.ends_at(2)
        assert order_ids((await reads.http.get(next_of(page).replace("wait=30", "wait=0"))).json()) == own


async def test_a_page_that_waited_is_401_if_its_key_was_revoked_meanwhile(
    environment: dict[str, str], database_url: str
) -> None:
    key = ChangingKey("shop")
    async with event_reads(environment, guard=key) as reads:
        waiting = asyncio.create_task(reads.get("?after=now&wait=30"))
        await eventually(lambda: reads.log._followers == 1)
        key.revoke()
        await log_events(database_url, client="shop")
        check_problem(await asyncio.wait_for(waiting, 5), 401, "unauthenticated")


async def test_p8_waits_past_their_bound_are_answered_at_once(environment: dict[str, str], database_url: str) -> None:
    async with event_reads(environment, max_waiting=2) as reads:
        waiting = [asyncio.create_task(reads.get("?wait=30")) for _ in range(2)]
        await eventually(lambda: reads.log._followers == 2)
        began = time.monotonic()
        assert (await reads.get("?wait=30")).json() == []
        assert time.monotonic() - began < 3
        ids = await log_events(database_url)
        assert [order_ids((await it).json()) for it in waiting] == [ids] * 2


# ── what is refused


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("?after=", "after"),
        ("?after=yesterday", "after"),
        ("?after=2026-01-05", "after"),
        ("?after=2026-01-05T09:30:00", "after"),
        ("?after=2026-01-05T09:30:00+00:00", "after"),  # + is a blank in a query
        ("?after=2026-02-30T09:30:00Z", "after"),
        ("?after=0001-01-01T00:00:00%2B14:00", "after"),
        ("?types=", "types"),
        ("?types=order.processed,", "types"),
        ("?types=order.shipped", "types"),
        ("?product=x", "product"),
        ("?limit=0", "limit"),
        ("?limit=1001", "limit"),
        ("?wait=31", "wait"),
    ],
)
async def test_a_value_that_is_not_allowed_is_422(reads: EventReads, query: str, parameter: str) -> None:
    refused = await reads.get(query)
    check_problem(refused, 422, "invalid-value")
    assert [it["parameter"] for it in refused.json()["errors"]] == [parameter]


async def test_all_faults_are_told_at_once_and_what_would_be_ignored_is_refused(reads: EventReads) -> None:
    refused = await reads.get("?after=x&types=y&product=z&limit=0&wait=-1")
    assert [it["parameter"] for it in refused.json()["errors"]] == ["after", "types", "product", "limit", "wait"]
    for query in ("?type=order.failed", "?limit=1&limit=2"):
        check_problem(await reads.get(query), 400, "invalid-query")


@pytest.mark.parametrize("value", [encode_cursor(1, 1), "x", ""])
async def test_a_page_does_not_ignore_a_last_event_id(reads: EventReads, value: str) -> None:
    """A client that lacks `Accept: text/event-stream` would begin with the first event of the log."""
    refused = await reads.http.get(f"{EVENTS}?after=now", headers={"Last-Event-ID": value})
    check_problem(refused, 400, "malformed")
    assert "Accept: text/event-stream" in refused.json()["detail"]
    assert "after" in refused.json()["detail"]


# ── faults and crowds


async def test_p8_old_pages_past_their_bound_are_503_and_new_events_are_read_as_they_are(
    environment: dict[str, str], database_url: str
) -> None:
    await log_events(database_url, 5)
    async with event_reads(environment, max_reads=4, timeout_s=30) as reads:
        await reads.ends_at(5)
        async with AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(reads.turns.turn("reader"))
            old = [asyncio.create_task(reads.get()) for _ in range(6)]
            await eventually(lambda: sum(it.done() for it in old) == 4)
            for refused in (it.result() for it in old if it.done()):
                check_problem(refused, 503, "overloaded")
            assert (await reads.get("?after=now")).status_code == 200
        assert sorted([(await it).status_code for it in old]) == [200, 200, 503, 503, 503, 503]


async def test_while_postgresql_is_away_old_events_are_503_and_new_ones_are_there(
    environment: dict[str, str], database_url: str
) -> None:
    await log_events(database_url, 2)
    async with proxy_to(database_url) as proxy:
        environment["DATABASE_URL"] = proxy.url(database_url)
        async with event_reads(environment) as reads:
            at_now = next_of(await reads.get("?after=now"))
            await eventually(lambda: reads.log._is_reading)
            new = await log_events(database_url, 3)
            await reads.ends_at(5)
            proxy.go_away()
            await eventually(lambda: not reads.log._health.is_up("event log"))
            check_problem(await reads.get(), 503, "store-unavailable")
            check_problem(await reads.get("?after=now"), 503, "store-unavailable")
            assert order_ids((await reads.http.get(at_now)).json()) == new
            proxy.come_back()
            await eventually(lambda: reads.log._health.is_up("event log"))

            async def are_all_there() -> bool:  # a server that has just failed is left alone for a moment
                page = await reads.get()
                return page.status_code == 200 and len(page.json()) == 5

            await eventually(are_all_there)


async def test_the_whole_service_answers_events(ingest: Ingest, database_url: str) -> None:
    ids = await log_events(database_url, 3)

    async def are_there() -> bool:
        return order_ids((await ingest.get("/api/v1/events")).json()) == ids

    await eventually(are_there)
    head = await ingest.client.head("/api/v1/events?limit=2")
    assert (head.status_code, head.content) == (200, b"")
    assert await ingest.metric('headrace_events_answered_total{way="page"}') >= 3
    assert await ingest.part("event log") == "ok"
