"""P11: all that follow the log in one process share one reader, and miss nothing, whatever happens to PostgreSQL."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from database import event_log, log_follower
from database.channels import VERDICTS
from database.connection import Connection
from database.event_ring import Page
from database.log_follower import LogFollower, OtherLog
from database.sessions import StoreUnavailable, make_pool
from pipeline.contract.orders import Order
from pipeline.process.health import Health
from product_consumer.ledger import record
from tests.support.brokers.broker import running_task
from tests.support.data.metrics import grown, sample
from tests.support.data.orders import new_product_id, order
from tests.support.faults.faults import proxy_to
from tests.support.faults.standby import standby_of
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

A = new_product_id()
SOON_S = 5.0


@dataclass
class Following:
    log: LogFollower
    health: Health

    def is_up(self) -> bool:
        return self.health.is_up("events")

    async def ends_at(self, offset: int) -> None:
        await eventually(lambda: self.log.last_offset == offset)


@asynccontextmanager
async def following(
    database_url: str, *, is_followed: bool = True, timeout_s: float = 2, waits: bool = True
) -> AsyncIterator[Following]:
    """A follower that runs, and has reached PostgreSQL if it `waits` for that. `is_followed`: for the whole block."""
    health = Health("test", optional=("events",))
    async with make_pool(database_url, "test", 2, timeout_s) as pool:
        follower = LogFollower(database_url, health, "events", pool=pool, timeout_s=timeout_s, min_interval_s=0.01)
        it = Following(follower, health)
        async with running_task(follower.run()):
            with follower.following() if is_followed else nullcontext():
                if waits:
                    await eventually(it.is_up)
                yield it


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        yield it


@pytest.fixture
def never_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nothing but a notification shows what is new."""
    monkeypatch.setattr(log_follower, "_POLL_EVERY_S", 3600.0)


async def decide(connection: Connection, *orders: Order, notifies: bool = True) -> None:
    await record(connection, list(orders), [])
    if notifies:
        await connection.execute(f"NOTIFY {VERDICTS}")


def some(count: int) -> list[Order]:
    return [order(A) for _ in range(count)]


async def follow(log: LogFollower, after: int, upto: int) -> list[str]:
    """The ids of the orders of all events between, as a stream reads them."""
    ids: list[str] = []
    async with asyncio.timeout(20):
        while after < upto:
            await log.wait_beyond(after, 1)
            with suppress(StoreUnavailable):
                page = await log.read(after, 7)
                ids += [it.order_id for it in page.events]
                after = page.upto
    return ids


def ids(orders: Sequence[Order]) -> list[str]:
    return [it.id for it in orders]


async def test_p11_the_ring_and_postgresql_give_the_same_events(connection: Connection, database_url: str) -> None:
    async with following(database_url) as it:
        await decide(connection, *some(20))
        await it.ends_at(20)
        from_ring = await it.log.read(5, 10)
        it.log._ring.begin(20)
        from_postgresql = await it.log.read(5, 10)
        end = await event_log.end(connection)
        events = await event_log.read(connection, end.log_id, 5, 15)
    assert from_ring == from_postgresql
    assert (from_ring.upto, [it.offset for it in from_ring.events]) == (15, list(range(6, 16)))
    assert [(it.order_id, it.type) for it in from_ring.events] == [(it.event.order.id, it.event.type) for it in events]
    assert f'"cursor":"{events[0].event.cursor}"'.encode() in from_ring.events[0].encoded


async def test_while_nobody_follows_many_batches_cost_few_looks(connection: Connection, database_url: str) -> None:
    """And whoever begins to follow waits for none of them."""
    async with following(database_url, is_followed=False) as it:
        async with grown(sample("headrace_event_log_rounds_total", because="notification")) as looks:
            began = time.monotonic()
            for _ in range(30):
                await decide(connection, *some(1))
            assert looks()[0] <= (time.monotonic() - began) / 0.25 + 1
        with it.log.following():
            assert await it.log.wait_beyond(29, SOON_S) == 30


async def test_p11_a_notification_is_enough(never_polls: None, connection: Connection, database_url: str) -> None:
    async with following(database_url) as it:
        waiting = asyncio.create_task(it.log.wait_beyond(0, 30))
        await decide(connection, *some(3))
        assert await asyncio.wait_for(waiting, SOON_S) == 3
        assert it.log.holds(0)


async def test_p11_a_lost_notification_costs_a_second(connection: Connection, database_url: str) -> None:
    polled = sample("headrace_event_log_rounds_total", because="poll")
    async with following(database_url) as it, grown(polled) as growth:
        await decide(connection, *some(3), notifies=False)
        assert await it.log.wait_beyond(0, 10) == 3
        assert growth()[0] >= 1


async def test_p11_many_readers_at_the_tail_cost_postgresql_one(
    never_polls: None, connection: Connection, database_url: str
) -> None:
    """Each of a hundred gets every event, and no query of theirs goes to PostgreSQL."""
    orders = some(40)
    async with following(database_url, is_followed=False) as it:
        with it.log.following():
            await eventually(lambda: it.log._is_reading)
            it.log._pool.terminate()  # a query of a reader would fail
            readers = [asyncio.create_task(follow(it.log, 0, len(orders))) for _ in range(100)]
            for start in range(0, len(orders), 10):
                await decide(connection, *orders[start : start + 10])
                await asyncio.sleep(0.02)  # so that the follower reads in several rounds
            assert [await reader for reader in readers] == [ids(orders)] * 100


async def test_p11_who_is_behind_the_ring_reads_from_postgresql_and_catches_up(
    connection: Connection, database_url: str
) -> None:
    old, new = some(30), some(30)
    await decide(connection, *old)
    async with following(database_url) as it:
        await it.ends_at(30)
        assert not it.log.holds(0)
        await decide(connection, *new)
        await it.ends_at(60)
        assert await follow(it.log, 0, 60) == ids(old + new)
        assert it.log.holds(30)


async def test_readers_of_the_same_events_share_a_query(connection: Connection, database_url: str) -> None:
    """One that has begun, and one that all later readers wait for."""
    await decide(connection, *some(5))
    async with following(database_url) as it:
        asked: list[int] = []
        query = it.log._query

        async def counted(after: int, limit: int, is_second: bool) -> Page:
            asked.append(after)
            return await query(after, limit, is_second)

        it.log._query = counted  # type: ignore[method-assign]
        pages = await asyncio.gather(*(it.log.read(0, 5) for _ in range(50)))
        assert {page.upto for page in pages} == {5}
        assert len(asked) <= 2


async def test_while_nobody_follows_events_are_numbered_and_not_read(connection: Connection, database_url: str) -> None:
    async with following(database_url, is_followed=False) as it:
        await decide(connection, *some(3))
        await it.ends_at(3)
        assert it.log._ring.read(3, 10).events == []
        assert not it.log.holds(0)
        assert [e.offset for e in (await it.log.read(0, 10)).events] == [1, 2, 3]


async def test_memory_is_bounded_by_events_and_by_bytes(
    monkeypatch: pytest.MonkeyPatch, connection: Connection, database_url: str
) -> None:
    monkeypatch.setattr(log_follower, "_MAX_EVENTS", 50)
    orders = some(200)
    async with following(database_url) as it:
        for start in range(0, 200, 20):
            await decide(connection, *orders[start : start + 20])
        await it.ends_at(200)
        assert (it.log._ring.after, it.log._ring.upto) == (150, 200)
        assert await follow(it.log, 0, 200) == ids(orders)
    monkeypatch.setattr(log_follower, "_MAX_BYTES", 5_000)
    async with following(database_url) as it:
        await decide(connection, *some(20))
        await it.ends_at(220)
        assert it.log._ring._bytes <= 5_000
        assert 200 < it.log._ring.after < 220


async def test_p12_a_connection_that_is_lost_is_made_again_and_no_event_with_it(
    connection: Connection, database_url: str
) -> None:
    orders = some(30)
    async with following(database_url) as it:
        reader = asyncio.create_task(follow(it.log, 0, 30))
        await decide(connection, *orders[:10])
        await it.ends_at(10)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'test events'"
        )
        await decide(connection, *orders[10:20])  # told to nobody
        await it.ends_at(20)
        await decide(connection, *orders[20:])
        assert await reader == ids(orders)
        assert it.is_up()


async def test_p12_while_postgresql_is_away_the_ring_is_read_and_health_says_why(
    connection: Connection, database_url: str
) -> None:
    async with proxy_to(database_url) as proxy, following(proxy.url(database_url), timeout_s=0.5) as it:
        await decide(connection, *some(5))
        await it.ends_at(5)
        proxy.go_away()
        await eventually(lambda: not it.is_up(), SOON_S)
        assert len((await it.log.read(0, 10)).events) == 5
        it.log._ring.begin(5)
        with pytest.raises(StoreUnavailable):
            await it.log.read(0, 10)
        with pytest.raises(StoreUnavailable):
            await it.log.now()
        with pytest.raises(StoreUnavailable):
            await it.log.end_at(datetime.now(UTC))
        proxy.come_back()
        await eventually(it.is_up, SOON_S)
        assert len(await follow(it.log, 0, 5)) == 5


async def test_p12_a_server_that_hangs_costs_seconds(connection: Connection, database_url: str) -> None:
    """As behind a firewall that forgot the connection: the next question misses its deadline."""
    async with proxy_to(database_url) as proxy, following(proxy.url(database_url), timeout_s=0.5) as it:
        proxy.forget()
        await decide(connection, *some(5))
        assert await it.log.wait_beyond(0, SOON_S) == 5


async def test_a_follower_that_starts_without_postgresql_follows_as_soon_as_it_is_there(
    connection: Connection, database_url: str
) -> None:
    async with proxy_to(database_url) as proxy:
        proxy.go_away()
        async with following(proxy.url(database_url), timeout_s=0.5, waits=False) as it:
            assert (it.log.log_id, it.log.last_offset) == (None, None)
            with pytest.raises(StoreUnavailable):
                await it.log.read(0, 10)
            await decide(connection, *some(2))
            proxy.come_back()
            assert await it.log.wait_beyond(0, SOON_S) == 2


@pytest.mark.alone  # it copies the whole server
async def test_p12_a_server_that_has_become_a_standby_is_left_for_one_that_takes_writes(database_url: str) -> None:
    """A standby sends no notifications, and numbers nothing."""
    async with (
        standby_of(database_url) as standby,
        proxy_to(database_url) as proxy,
        following(proxy.url(database_url)) as it,
        connected(database_url) as primary,
    ):
        await decide(primary, *some(2))
        await it.ends_at(2)
        await standby.catch_up()
        proxy.cut()
        proxy.lead_to(standby.url(database_url))
        await eventually(lambda: not it.is_up(), SOON_S)
        await standby.promote()
        await eventually(it.is_up, SOON_S)
        async with connected(standby.url(database_url)) as promoted:
            await decide(promoted, *some(3))
        await it.ends_at(5)


async def test_a_database_that_was_restored_is_noticed(connection: Connection, database_url: str) -> None:
    await decide(connection, *some(5))
    async with following(database_url) as it:
        await it.ends_at(5)
        it.log._ring.begin(0)
        await connection.execute("UPDATE event_log SET id = id + 1")
        with pytest.raises(OtherLog):
            await it.log.read(0, 10)
        known = await event_log.end(connection)
        await eventually(lambda: it.log.log_id == known.log_id)
        assert len((await it.log.read(0, 10)).events) == 5


async def test_p11_a_backlog_that_takes_longer_than_the_deadline_is_numbered_all_the_same(
    connection: Connection, database_url: str
) -> None:
    """The follower's next call does half as much, in twice the time. Afterwards it is as quick as before."""
    await connection.execute(
        """
        ALTER FUNCTION number_events(integer) RENAME TO number_quickly;
        CREATE FUNCTION number_events(most integer) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN
            IF EXISTS (SELECT FROM event_batches WHERE first_offset IS NULL) THEN
                PERFORM pg_sleep(most / 5000.0 * 3);
            END IF;
            RETURN number_quickly(most);
        END $$
        """
    )
    await decide(connection, *some(3))
    async with following(database_url, timeout_s=0.5, waits=False) as it:
        await it.ends_at(3)
        await eventually(lambda: it.log._number_slower == 1)
