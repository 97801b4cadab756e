"""GET /api/v1/events as server-sent events: nothing is missed over a lost stream, and nobody holds up anybody."""

import asyncio
import signal
import socket
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from database import event_log
from database.connection import Connection
from ingest_api.documents.event_operations import EVENTS
from pipeline.contract.api_keys import new_token
from pipeline.contract.order_events import decode_cursor, encode_cursor
from product_consumer.ledger import record
from tests.support.clients.event_stream import ACCEPT, streaming
from tests.support.data.api_keys import bearer, key_of, write_keys
from tests.support.data.orders import new_product_id, order
from tests.support.faults.faults import proxy_to
from tests.support.scenes.events.event_reads import log_events
from tests.support.services.ingest import Ingest, check_problem, ingesting
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

A = new_product_id()
NOW = f"{EVENTS}?after=now"
_LISTENS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1"
_SESSIONS = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'ingest_api%'
"""
# So that what is counted does not depend on a plan, which PostgreSQL changes once it has analysed the small tables.
_LOOKS_UP_EACH = """
    DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET enable_seqscan = off', current_database());
        EXECUTE format('ALTER DATABASE %I SET enable_hashjoin = off', current_database());
        EXECUTE format('ALTER DATABASE %I SET enable_mergejoin = off', current_database());
    END $$
"""
_VERDICTS_READ = "SELECT idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'stock_ledger'"


async def streams_open(ingest: Ingest) -> float:
    return await ingest.metric('headrace_places_taken{what="event streams"}')


async def ended(ingest: Ingest, why: str) -> float:
    return await ingest.metric(f'headrace_event_streams_ended_total{{why="{why}"}}')


# ── what is sent


async def test_p11_a_stream_has_what_was_there_and_what_comes(ingest: Ingest, database_url: str) -> None:
    old = await log_events(database_url, 3)
    async with streaming(ingest.client, EVENTS) as stream:
        await stream.has(3)
        new = await log_events(database_url, 2, reason="out_of_stock")
        await stream.has(5)
        assert stream.order_ids == old + new
        assert stream.types == ["order.processed"] * 3 + ["order.failed"] * 2
        assert stream.last_event_id == stream.events[-1]["cursor"]
        assert stream.response.headers["content-type"] == "text/event-stream"
        assert stream.response.headers["cache-control"] == "no-store"
        assert stream.response.headers["x-accel-buffering"] == "no"
        page = (await ingest.get(EVENTS)).json()
        assert stream.events == page
        assert await streams_open(ingest) == 1

    async def has_left() -> bool:
        return await streams_open(ingest) == 0 and await ended(ingest, "left") == 1

    await eventually(has_left)


async def test_p11_a_committer_that_stalls_comes_late_and_is_not_missed(ingest: Ingest, database_url: str) -> None:
    late = order(A)
    async with connected(database_url) as stalled, streaming(ingest.client, NOW) as stream:
        transaction = stalled.transaction()
        await transaction.start()
        await record(stalled, [late], [])
        early = await log_events(database_url, 3)
        await stream.has(3)
        await transaction.commit()
        await stream.has(4)
        assert stream.order_ids == [*early, late.id]


async def test_while_nothing_happens_a_comment_comes_within_ten_seconds(ingest: Ingest) -> None:
    began = time.monotonic()
    async with streaming(ingest.client, NOW) as stream:
        await eventually(lambda: stream.comments >= 2, 20)
        assert time.monotonic() - began < 14
        assert stream.events == []


async def test_head_has_the_headers_of_a_stream_and_no_end_to_wait_for(ingest: Ingest) -> None:
    head = await ingest.client.head(EVENTS, headers=ACCEPT)
    assert (head.status_code, head.headers["content-type"], head.content) == (200, "text/event-stream", b"")
    for accept in ("application/json", "*/*", "text/html", "text/event-stream, application/json"):
        page = await ingest.client.get(EVENTS, headers={"Accept": accept})
        assert page.headers["content-type"] == "application/json"
        assert "accept" in page.headers["vary"].lower()


async def test_what_a_stream_cannot_do_is_refused(ingest: Ingest) -> None:
    for query in ("limit=5", "wait=1"):
        refused = await ingest.client.get(f"{EVENTS}?{query}", headers=ACCEPT)
        check_problem(refused, 422, "invalid-value")
    check_problem(await ingest.client.get(f"{EVENTS}?after=x", headers=ACCEPT), 422, "invalid-value")
    id_ = "Last-Event-ID"
    for several, why in (([""], "is empty"), (["", ""], "comes 2 times"), (["x", "x"], "comes 2 times"), (["x"], "id")):
        refused = await ingest.client.get(EVENTS, headers=[*ACCEPT.items(), *((id_, it) for it in several)])
        check_problem(refused, 400, "malformed")
        assert why in refused.json()["detail"]
    refused = await ingest.client.get(EVENTS, headers={**ACCEPT, "Last-Event-ID": encode_cursor(1, 1)})
    check_problem(refused, 410, "cursor-unknown")


# ── resuming


async def test_p11_a_stream_resumes_over_a_restart_without_gap_or_duplicate(
    environment: dict[str, str], database_url: str
) -> None:
    """Also before the first event has come: the stream says where it begins."""
    async with ingesting(environment) as ingest, streaming(ingest.client, NOW) as stream:
        resume = stream.last_event_id
        assert await ingest.service.stop() == 0
        await eventually(lambda: stream.is_ended)
    ids = await log_events(database_url, 5)
    got: list[str] = []
    for _ in range(3):
        async with (
            ingesting(environment) as ingest,
            streaming(ingest.client, NOW, **{"Last-Event-ID": resume}) as stream,
        ):
            await stream.has(5)
            ids += await log_events(database_url, 5)
            await stream.has(10)
            await ingest.service.stop(signal.SIGKILL)
            got, resume = got + stream.order_ids, stream.last_event_id
        ids += await log_events(database_url, 5)
    assert got == ids[: len(got)]
    assert len(got) >= 30


async def test_last_event_id_resumes_instead_of_after(ingest: Ingest, database_url: str) -> None:
    """A browser that lost a stream asks for the same URL again, `after` included, with the header."""
    ids = await log_events(database_url, 3)
    async with streaming(ingest.client, EVENTS) as stream:
        await stream.has(3)
    async with streaming(ingest.client, NOW, **{"Last-Event-ID": stream.events[0]["cursor"]}) as stream:
        await stream.has(2)
        assert stream.order_ids == ids[1:]


async def test_the_id_moves_on_while_nothing_matches(environment: dict[str, str], database_url: str) -> None:
    """Or a client with few events would make the service pass all others again, each time that it comes back."""
    async with ingesting(environment) as ingest, streaming(ingest.client, f"{EVENTS}?product={A}") as stream:
        await log_events(database_url, 1_500)
        await eventually(lambda: decode_cursor(stream.last_event_id)[1] >= 1_000)
        ids = await log_events(database_url, 1, product_id=A)
        await stream.has(1)
        assert stream.order_ids == ids


# ── an end


async def test_p9_sigterm_ends_streams_in_good_order(environment: dict[str, str], database_url: str) -> None:
    async with ingesting(environment) as ingest:
        async with streaming(ingest.client, NOW) as one, streaming(ingest.client, NOW) as two:
            await log_events(database_url)
            await one.has(1)
            await two.has(1)
            began = time.monotonic()
            assert await ingest.service.stop() == 0
            assert time.monotonic() - began < 5
            await eventually(lambda: one.is_ended and two.is_ended)
        assert '"level":"error"' not in ingest.service.log()


async def test_a_stream_ends_soon_after_its_key_was_revoked(environment: dict[str, str], tmp_path: Path) -> None:
    keys, shop, other = tmp_path / "keys.json", new_token(), new_token()
    write_keys(keys, key_of(shop, "shop", ["orders:read"]), key_of(other, "other", ["orders:read"]))
    async with (
        ingesting({**environment, "API_KEYS_FILE": str(keys)}, ready="/livez") as ingest,
        streaming(ingest.client, NOW, **bearer(shop)) as stream,
    ):
        write_keys(keys, key_of(other, "other", ["orders:read"]))
        await eventually(lambda: stream.is_ended, 15)


async def test_a_stream_ends_soon_after_its_key_sees_other_events(environment: dict[str, str], tmp_path: Path) -> None:
    """What the key loses is not sent, and what it gains is not left out: the reader comes back with the key's rights of
    now. A change that leaves them as they are ends nothing.
    """
    keys, as_before, loses_ops, renamed = tmp_path / "keys.json", new_token(), new_token(), new_token()
    write_keys(
        keys,
        key_of(as_before, "shop", ["orders:read"]),
        key_of(loses_ops, "support", ["orders:read", "ops"]),
        key_of(renamed, "shop", ["orders:read"]),
    )
    async with (
        ingesting({**environment, "API_KEYS_FILE": str(keys)}, ready="/livez") as ingest,
        streaming(ingest.client, NOW, **bearer(as_before)) as untouched,
        streaming(ingest.client, NOW, **bearer(loses_ops)) as without_ops,
        streaming(ingest.client, NOW, **bearer(renamed)) as of_another,
    ):
        write_keys(
            keys,
            key_of(as_before, "shop", ["orders:read", "orders:write"], orders_per_s=5),
            key_of(loses_ops, "support", ["orders:read"]),
            key_of(renamed, "rival", ["orders:read"]),
        )
        await eventually(lambda: without_ops.is_ended and of_another.is_ended, 10)
        ids = await log_events(environment["DATABASE_URL"], client="shop")
        await untouched.has(1)
        assert untouched.order_ids == ids


async def test_a_restored_database_ends_streams(environment: dict[str, str], database_url: str) -> None:
    await log_events(database_url, 3)
    async with ingesting(environment) as ingest, streaming(ingest.client, EVENTS) as stream:
        await stream.has(3)
        async with connected(database_url) as connection:
            await connection.execute("UPDATE event_log SET id = id + 1")
        await eventually(lambda: stream.is_ended, 15)
        refused = await ingest.client.get(EVENTS, headers={**ACCEPT, "Last-Event-ID": stream.last_event_id})
        check_problem(refused, 410, "cursor-unknown")


# ── many, and slow ones


async def test_p8_a_client_has_no_more_than_its_share_of_streams(environment: dict[str, str], tmp_path: Path) -> None:
    keys, shop, other = tmp_path / "keys.json", new_token(), new_token()
    write_keys(keys, key_of(shop, "shop", ["orders:read"]), key_of(other, "other", ["orders:read"]))
    guarded = {**environment, "API_KEYS_FILE": str(keys)}
    async with (
        ingesting(guarded, ready="/livez", max_event_streams=4) as ingest,
        streaming(ingest.client, NOW, **bearer(shop)),
        streaming(ingest.client, NOW, **bearer(shop)),
    ):
        refused = await ingest.client.get(NOW, headers={**ACCEPT, **bearer(shop)})
        check_problem(refused, 503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        async with streaming(ingest.client, NOW, **bearer(other)):
            pass


async def test_p11_many_streams_cost_postgresql_one_reader(environment: dict[str, str], database_url: str) -> None:
    """One connection that listens; and each verdict is looked up as often as for one stream: once."""
    ids: list[str] = []
    async with connected(database_url) as connection:
        await connection.execute(_LOOKS_UP_EACH)
    async with connected(database_url) as connection, ingesting(environment) as ingest:
        async with AsyncExitStack() as stack, httpx.AsyncClient(base_url=ingest.service.url) as client:
            streams = [await stack.enter_async_context(streaming(client, NOW)) for _ in range(50)]
            for _ in range(10):
                ids += await log_events(database_url, 20)
            for stream in streams:
                await stream.has(200)
                assert stream.order_ids == ids
            assert await connection.fetchval(_LISTENS, "ingest_api events") == 1
        assert await ingest.service.stop() == 0
        await eventually(lambda: _are_gone(connection))
        assert 200 <= await connection.fetchval(_VERDICTS_READ) < 2 * 200


async def _are_gone(connection: Connection) -> bool:
    """Whether all sessions of ingest_api have ended. PostgreSQL knows then what they have read."""
    return not await connection.fetchval(_SESSIONS)


async def test_p8_a_client_that_reads_a_byte_a_second_is_dropped_and_resumes(ingest: Ingest, database_url: str) -> None:
    """Others are not held up, and what the process holds for the slow one is bounded."""
    ids = [it for _ in range(14) for it in await log_events(database_url, 1_000)]
    parts = urlsplit(ingest.service.url)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(slow, (parts.hostname, parts.port))
        head = f"GET {EVENTS} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: text/event-stream\r\n\r\n"
        await loop.sock_sendall(slow, head.encode())
        began = time.monotonic()
        while await ended(ingest, "unread") == 0:
            with suppress(TimeoutError, ConnectionResetError):
                async with asyncio.timeout(1):
                    await loop.sock_recv(slow, 1)
            assert time.monotonic() - began < 25
            await asyncio.sleep(1)
        assert await ingest.metric('headrace_connections_closed_total{reason="unread"}') >= 1
    async with streaming(ingest.client, f"{EVENTS}?after={encode_cursor(await _log_id(database_url), 10)}") as stream:
        await stream.has(len(ids) - 10, 60)
        assert stream.order_ids == ids[10:]


async def _log_id(database_url: str) -> int:
    async with connected(database_url) as connection:
        return (await event_log.end(connection)).log_id


async def test_a_stream_lives_through_an_outage_of_postgresql(environment: dict[str, str], database_url: str) -> None:
    async with proxy_to(database_url) as proxy:
        environment["DATABASE_URL"] = proxy.url(database_url)
        async with ingesting(environment) as ingest, streaming(ingest.client, NOW) as stream:
            ids = await log_events(database_url, 3)
            await stream.has(3)
            proxy.go_away()
            ids += await log_events(database_url, 3)
            proxy.come_back()
            await stream.has(6)
            assert stream.order_ids == ids
            assert not stream.is_ended
