"""How connections are set up, and borrowed ones against a PostgreSQL that hangs."""

import asyncio
import time
from urllib.parse import quote

import pytest

from database.sessions import borrow, listening, make_pool
from tests.support.faults.faults import proxy_to
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

_OPTIONS = quote("-c synchronous_commit=off -c plan_cache_mode=auto")


@pytest.mark.parametrize("query", ["", "?synchronous_commit=off&plan_cache_mode=auto", f"?options={_OPTIONS}"])
async def test_p1_commits_are_synchronous_whatever_the_database_and_the_url_say(database_url: str, query: str) -> None:
    """And no plan is kept that was made while the tables were empty."""
    name = database_url.rpartition("/")[2]
    async with connected(database_url) as connection:
        await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    async with make_pool(database_url + query, "test", size=1, timeout_s=5) as pool, borrow(pool, 5) as connection:
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
        assert await connection.fetchval("SHOW plan_cache_mode") == "force_custom_plan"


async def test_a_borrowed_connection_holds_its_deadline_although_the_server_hangs(database_url: str) -> None:
    async with (
        proxy_to(database_url) as proxy,
        make_pool(proxy.url(database_url), "test", size=1, timeout_s=0.5) as pool,
    ):
        async with borrow(pool, 0.5) as connection:
            assert await connection.fetchval("SELECT 1") == 1
        proxy.hold()
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with borrow(pool, 0.5) as connection:
                await connection.fetchval("SELECT 1")
        assert time.monotonic() - began < 3
        proxy.come_back()
        async with borrow(pool, 5) as connection:
            assert await connection.fetchval("SELECT 1") == 1


async def test_a_listening_session_hears_notifications_and_its_own_end_and_ends_with_the_block(
    database_url: str,
) -> None:
    told, lost = asyncio.Event(), asyncio.Event()
    async with connected(database_url) as other:
        async with listening(database_url, "test listening", "channel", told.set, lost.set, timeout_s=5) as connection:
            await other.execute("NOTIFY channel, 'any payload'")
            await asyncio.wait_for(told.wait(), 5)
            assert not lost.is_set()
            await other.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
            await asyncio.wait_for(lost.wait(), 5)
        async with listening(database_url, "test listening", "channel", told.set, lost.set, timeout_s=5) as connection:
            pass
        assert connection.is_closed()

        async def is_gone() -> bool:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1"
            return bool(await other.fetchval(query, "test listening") == 0)

        await eventually(is_gone)
