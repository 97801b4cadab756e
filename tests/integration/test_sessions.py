"""Borrowed connections against a PostgreSQL that hangs."""

import time

import pytest

from database.sessions import borrow, make_pool
from tests.faults import proxy_to


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
