"""One connection, thrown away on any doubt, and work that is retried until it works."""

import asyncio

import asyncpg
import pytest
from structlog.testing import capture_logs

from database import connection as database_connection
from database import sessions
from database.connection import Connection, Database
from database.copy_text import copy_rows
from pipeline.contract.columns import Column
from pipeline.process import backoff
from pipeline.process import health as health_module
from pipeline.process.health import Health
from tests.support.brokers.broker import running_task
from tests.support.data.metrics import sample
from tests.support.faults.faults import proxy_to
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

NUMBERS = [Column("id", "integer", stores="real")]
"""A table whose rows are whole numbers: each is its own real part."""
_SESSIONS = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1"


@pytest.fixture(autouse=True)
def _fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_connection, "backoff_s", lambda attempt: backoff.backoff_s(attempt, 0.01, 0.02))


async def nothing(_: Connection) -> None:
    """Prepare nothing."""


async def one(connection: Connection) -> int:
    value: int = await connection.fetchval("SELECT 1")
    return value


async def connections_of(watcher: Connection, service: str) -> int:
    count: int = await watcher.fetchval(f"SELECT count(*) {_SESSIONS}", service)
    return count


async def test_a_connection_that_cannot_be_prepared_is_not_leaked(database_url: str) -> None:
    attempts = 0

    async def prepare(connection: Connection) -> None:
        nonlocal attempts
        attempts += 1
        await connection.execute("CREATE TEMPORARY TABLE t (LIKE not_migrated_yet)")

    database = Database(database_url, Health("leaky", "database"), prepare)
    working = asyncio.create_task(database.until_it_works(one, "queue"))
    async with connected(database_url) as watcher:
        await eventually(lambda: attempts >= 10)

        async def are_few() -> bool:  # a server that is busy ends them a little later
            return await connections_of(watcher, "leaky") <= 2  # one that is made, one that is being ended

        await eventually(are_few)
        await watcher.execute("CREATE TABLE not_migrated_yet ()")
        assert await working == 1
        await database.close()


async def test_a_killed_backend_is_replaced_and_the_work_done(database_url: str) -> None:
    health = Health("killed", "database")
    database = Database(database_url, health, nothing)
    assert await database.until_it_works(one, "queue") == 1
    async with connected(database_url) as watcher:
        await watcher.fetch(f"SELECT pg_terminate_backend(pid) {_SESSIONS}", "killed")
        assert await database.until_it_works(one, "queue") == 1
    assert health.is_ready
    await database.close()


async def test_health_says_what_is_wrong_while_the_batch_is_held(database_url: str) -> None:
    health = Health("held", "database")
    database = Database(database_url, health, nothing)
    broken = True

    async def work(connection: Connection) -> int:
        if broken:
            await connection.execute("SELECT * FROM not_migrated_yet")
        return await one(connection)

    working = asyncio.create_task(database.until_it_works(work, "queue"))
    await eventually(lambda: "42P01" in str(health.summary()))
    assert not health.is_ready
    broken = False
    assert await working == 1
    assert health.is_ready
    await database.close()


async def test_what_the_row_is_to_blame_for_is_raised(database_url: str) -> None:
    database = Database(database_url, Health("data", "database"), nothing)

    async def bad_argument(connection: Connection) -> None:
        await connection.fetch("SELECT $1::uuid", "no uuid")  # refused by the client

    async def bad_value(connection: Connection) -> None:
        await connection.fetch("SELECT 'no uuid'::uuid")  # refused by the server

    for work in (bad_argument, bad_value):
        with pytest.raises(asyncpg.DataError):
            await database.until_it_works(work, "queue")
    await database.close()


async def test_data_at_fault_on_a_connection_that_dies_with_it_is_tried_again(database_url: str) -> None:
    """Whether a row is bad is only known from a connection that lives: a rollback that fails hides it."""
    database = Database(database_url, Health("dying", "database"), nothing)
    attempts = 0

    async def work(connection: Connection) -> None:
        nonlocal attempts
        attempts += 1
        async with connection.transaction():
            try:
                await connection.execute("SELECT 1 / 0")
            finally:
                if attempts == 1:
                    connection.terminate()

    with pytest.raises(asyncpg.DivisionByZeroError):
        await database.until_it_works(work, "queue")
    assert attempts == 2
    await database.close()


async def test_p9_closing_does_not_wait_for_a_server_that_is_silent(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the grace period has ended with a batch in hand."""
    monkeypatch.setattr(database_connection, "_CLOSE_TIMEOUT_S", 0.1)
    async with proxy_to(database_url) as proxy:
        database = Database(proxy.url(database_url), Health("silent", "database"), nothing)
        assert await database.until_it_works(one, "queue") == 1
        proxy.hold()
        working = asyncio.create_task(database.until_it_works(one, "queue"))
        async with connected(database_url) as watcher:
            await eventually(lambda: _has_answered(watcher))
        working.cancel()
        await asyncio.wait([working])
        await database.close()


async def _has_answered(watcher: Connection) -> bool:
    return bool(await watcher.fetchval(f"SELECT state = 'idle' AND query = 'SELECT 1' {_SESSIONS}", "silent"))


async def test_p9_a_cancellation_is_heard_in_a_transaction_whose_server_is_silent(database_url: str) -> None:
    """The rollback that it leads to gets no answer, and the error of that must not take its place."""
    silent = asyncio.Event()
    async with proxy_to(database_url) as proxy:
        database = Database(proxy.url(database_url), Health("silent", "database"), nothing)

        async def work(connection: Connection) -> int:
            async with connection.transaction():
                await one(connection)
                proxy.hold()
                silent.set()
                return await one(connection)

        working = asyncio.create_task(database.until_it_works(work, "queue"))
        await silent.wait()
        working.cancel()
        await asyncio.wait([working], timeout=5)
        assert working.done()
        assert working.cancelled()
        await database.close()


async def test_p4_a_client_that_is_frozen_in_a_transaction_does_not_hold_up_others_for_ever(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sessions._SETTINGS, "idle_in_transaction_session_timeout", "200ms")
    locked = asyncio.Event()

    async def freeze(connection: Connection) -> None:
        async with connection.transaction():
            await connection.execute("LOCK TABLE products")
            locked.set()
            await asyncio.Event().wait()

    database = Database(database_url, Health("frozen", "database"), nothing)
    async with running_task(database.until_it_works(freeze, "queue")), connected(database_url) as other:
        await locked.wait()
        async with asyncio.timeout(5), other.transaction():
            await other.execute("LOCK TABLE products")
    await database.close()


def test_p4_the_workers_sessions_are_ended_when_they_are_idle_in_a_transaction() -> None:
    assert sessions.session_settings("x")["idle_in_transaction_session_timeout"] == "30s"


# ── between batches


async def test_readiness_follows_the_database_while_no_batch_is_in_hand(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_connection, "_PING_INTERVAL_S", 0.01)
    health = Health("idle", "database")
    async with proxy_to(database_url) as proxy:
        database = Database(proxy.url(database_url), health, nothing)
        async with running_task(database.watch()):
            await eventually(lambda: health.is_ready)
            proxy.go_away()
            await eventually(lambda: not health.is_ready)
            proxy.come_back()
            await eventually(lambda: health.is_ready)
        await database.close()


async def test_a_server_that_is_silent_between_batches_is_not_ready(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_connection, "_PING_INTERVAL_S", 0.01)
    monkeypatch.setattr(database_connection, "_PING_TIMEOUT_S", 0.1)
    health = Health("idle", "database")
    async with proxy_to(database_url) as proxy:
        database = Database(proxy.url(database_url), health, nothing)
        async with running_task(database.watch()):
            await eventually(lambda: health.is_ready)
            proxy.hold()
            await eventually(lambda: not health.is_ready)
            proxy.release()
            await eventually(lambda: health.is_ready)
        await database.close()


async def test_a_batch_in_hand_is_not_disturbed_by_the_watch(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection does one thing at a time, and whoever asks for a second is refused."""
    monkeypatch.setattr(database_connection, "_PING_INTERVAL_S", 0)
    database = Database(database_url, Health("busy", "database"), nothing)
    attempts = 0

    async def work(connection: Connection) -> int:
        nonlocal attempts
        attempts += 1
        return await one(connection)

    async with running_task(database.watch()):
        for _ in range(50):
            assert await database.until_it_works(work, "queue") == 1
    assert attempts == 50
    await database.close()


# ── who waits says for what


async def test_p12_a_batch_that_waits_for_long_says_for_what_and_is_not_ready_meanwhile(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PostgreSQL that was frozen in the middle of a COPY was not named for 45 s."""
    monkeypatch.setattr(health_module, "LONG_WAIT_S", 0.2)
    health = Health("waiting", "database")
    waits = sample("headrace_long_waits", service="waiting", part="database")
    async with proxy_to(database_url) as proxy:
        database = Database(proxy.url(database_url), health, nothing)
        assert await database.ping()

        async def copy(connection: Connection) -> None:
            await connection.execute("CREATE TEMPORARY TABLE t (id int)")
            proxy.hold()
            await copy_rows(connection, "t", NUMBERS, [1])

        with capture_logs() as lines:
            working = asyncio.create_task(database.until_it_works(copy, "orders.accepted"))
            await eventually(lambda: not health.is_ready)
            assert "PostgreSQL to take a batch of orders.accepted" in str(health.summary())
            assert waits() == 1
            proxy.release()
            await working
        assert health.is_ready
        assert waits() == 0
        assert [line["event"] for line in lines] == ["waiting for long", "waiting is over"]
        await database.close()


async def test_p12_a_session_that_breaks_off_in_a_copy_is_told_in_words(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncpg says: cannot switch to state 12; another operation (2) is in progress."""
    monkeypatch.setattr(database_connection, "_COMMAND_TIMEOUT_S", 0.2)
    health = Health("broken", "database")
    async with proxy_to(database_url) as proxy:
        database = Database(proxy.url(database_url), health, nothing)
        holds = [proxy.hold]

        async def copy(connection: Connection) -> None:
            async with connection.transaction():
                await connection.execute("CREATE TEMPORARY TABLE t (id int)")
                if holds:
                    holds.pop()()
                await copy_rows(connection, "t", NUMBERS, [1])

        with capture_logs() as lines:
            working = asyncio.create_task(database.until_it_works(copy, "orders.accepted"))
            await eventually(lambda: "did not answer" in str(health.summary()))
            proxy.come_back()
            async with asyncio.timeout(10):
                await working
        told = " ".join(str(line) for line in lines)
        assert "cannot switch" not in told
        assert "0x" not in told
        await database.close()
