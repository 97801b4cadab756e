"""Writing batches while PostgreSQL fails: the worker holds the whole batch until it works, and stores nothing twice."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import asyncpg
import pytest

from database import connection as database_connection
from database.connection import Connection, Database
from persist_worker.write import Written, prepare, write
from pipeline.contract.orders import Order
from pipeline.contract.reasons import Reason
from pipeline.process.health import Health
from tests.support.data.orders import body_of, new_product_id, order
from tests.support.faults.faults import proxy_to
from tests.support.services.workers import DeadRow, connected, dead_letters, locked, stored_orders, wait_20_ms_for_locks
from tests.support.time.conditions import eventually

A = new_product_id()


@pytest.fixture(autouse=True)
def _fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_connection, "backoff_s", lambda attempt: 0.01)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        await prepare(it)
        yield it


def poison() -> Order:
    return order(A, 0, total_price=Decimal(0))


def parked(bad: Order) -> DeadRow:
    return DeadRow(bad.id, "persist", Reason.INVALID_DATA, body_of(bad))


def database_of(url: str) -> Database:
    return Database(url, Health("writer", "database"), prepare)


def writing(database: Database, orders: list[Order]) -> "asyncio.Task[Written]":
    return asyncio.create_task(database.until_it_works(lambda it: write(it, orders, []), "queue"))


async def test_p2_two_workers_with_the_same_batch_at_once_store_it_once(
    connection: Connection, database_url: str
) -> None:
    """As when a channel dies, and the broker redelivers its batch to another worker."""
    here, there = database_of(database_url), database_of(database_url)
    for turn in (1, 1, 1, -1):
        orders = [order(A) for _ in range(50)]
        # The last ones deadlock, and PostgreSQL ends one of them.
        both = await asyncio.gather(writing(here, orders), writing(there, orders[::turn]))
        assert sum(len(it.stored) for it in both) == 50
        assert [it.refused for it in both] == [[], []]
    assert await connection.fetchval("SELECT count(*) FROM orders") == 200
    await asyncio.gather(here.close(), there.close())


async def held(work: "asyncio.Task[Written]", database: Database, why: str) -> None:
    """Wait until the worker says that it holds the batch, and why."""
    await eventually(lambda: work.done() or why in str(database._health.summary()))
    assert not work.done()


async def test_a_locked_table_holds_the_batch_and_who_waits_for_it_says_so(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ALTER TABLE waits for a long reader, and blocks everything behind it."""
    wait_20_ms_for_locks(monkeypatch)
    database, orders = database_of(database_url), [order(A) for _ in range(10)]
    async with locked(database_url, "orders"):
        work = writing(database, orders)
        await held(work, database, "55P03")
    assert (await work).stored == orders
    await database.close()


async def test_a_server_that_does_not_answer_holds_the_batch(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, orders = database_of(database_url), [order(A) for _ in range(10)]
    with monkeypatch.context() as impatient:
        impatient.setattr(database_connection, "_COMMAND_TIMEOUT_S", 0.1)
        async with locked(database_url, "orders"):
            work = writing(database, orders)
            await held(work, database, "TimeoutError")
            impatient.undo()  # or a commit of more than 0.1 s would be repeated, and find its orders stored
            await eventually(lambda: _who_waits_for_a_lock(connection))
    assert (await work).stored == orders
    await database.close()


async def test_a_missing_table_holds_the_batch(connection: Connection, database_url: str) -> None:
    database, orders = database_of(database_url), [order(A) for _ in range(10)]
    assert await database.ping()
    await connection.execute("ALTER TABLE orders RENAME TO away")
    work = writing(database, orders)
    await held(work, database, "42P01")
    await connection.execute("ALTER TABLE away RENAME TO orders")
    assert (await work).stored == orders
    assert await dead_letters(connection) == []
    await database.close()


_DISK_FULL = """
    CREATE FUNCTION pg_temp.disk_full() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = 'disk_full'; END $$;
    CREATE TRIGGER disk_full BEFORE INSERT ON orders_staging EXECUTE FUNCTION pg_temp.disk_full();
"""


async def test_a_disk_that_fills_up_while_bad_rows_are_looked_for_is_blamed_on_none(connection: Connection) -> None:
    await connection.execute(_DISK_FULL)
    with pytest.raises(asyncpg.DiskFullError):
        await write(connection, [order(A), poison()], [])
    assert await stored_orders(connection) == {}
    assert await dead_letters(connection) == []


async def test_p1_all_or_nothing_when_the_backend_is_killed_in_the_middle(
    connection: Connection, database_url: str
) -> None:
    """In mid-transaction: the good rows are staged and inserted, and the dead letters wait for a lock."""
    database = database_of(database_url)
    good, bad = [order(A) for _ in range(10)], poison()
    async with locked(database_url, "dead_letters"):
        work = writing(database, [*good, bad])
        for _ in range(3):
            await eventually(lambda: _kill_who_waits_for_a_lock(connection))
        assert await stored_orders(connection) == {}
    written = await work
    assert (written.stored, written.refused) == (good, [bad])
    assert (await stored_orders(connection)).keys() == {it.id for it in good}
    assert await dead_letters(connection) == [parked(bad)]
    await database.close()


_WAITING = (
    "FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = 'writer' AND wait_event_type = 'Lock'"
)


async def _who_waits_for_a_lock(connection: Connection) -> bool:
    return bool(await connection.fetch(f"SELECT pid {_WAITING}"))


async def _kill_who_waits_for_a_lock(connection: Connection) -> bool:
    return bool(await connection.fetch(f"SELECT pg_terminate_backend(pid) {_WAITING}"))


async def test_p1_a_connection_lost_at_any_moment_of_a_write_costs_nothing(
    connection: Connection, database_url: str
) -> None:
    """Cut after a number of bytes from the server. One of these cuts loses the answer of a commit."""
    old, bad = order(A), poison()
    await write(connection, [old], [])
    async with proxy_to(database_url) as proxy:
        database = database_of(proxy.url(database_url))
        await writing(database, [old, bad])
        whole = proxy.sent_bytes
        await database.close()
    stored = {old.id}
    for cut_after in range(whole, 0, -37):
        new = order(A)
        assert (await _written_although_cut(database_url, cut_after, [old, bad, new])).refused == [bad]
        stored.add(new.id)
    assert (await stored_orders(connection)).keys() == stored
    assert await dead_letters(connection) == [parked(bad)]


async def _written_although_cut(database_url: str, cut_after: int, orders: list[Order]) -> Written:
    async with proxy_to(database_url) as proxy:
        proxy.cut_after_bytes = cut_after
        database = database_of(proxy.url(database_url))
        work = writing(database, orders)
        await eventually(lambda: work.done() or proxy.connections > 1)
        proxy.cut_after_bytes = None
        written = await work
        await database.close()
        return written


async def test_a_connection_that_went_silent_does_not_hold_the_batch_for_ever(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover behind one address: the old server never answers again, not even a cancellation."""
    monkeypatch.setattr(database_connection, "_COMMAND_TIMEOUT_S", 0.5)
    async with proxy_to(database_url) as proxy, asyncio.timeout(20):
        database = database_of(proxy.url(database_url))
        for orders in ([order(A)], [order(A), poison()]):
            assert await database.ping()
            async with locked(database_url, "dead_letters, orders"):
                work = writing(database, orders)
                await eventually(lambda: _who_waits_for_a_lock(connection))
                proxy.forget()
            written = await work
            assert written.refused == orders[1:]
        await database.close()
