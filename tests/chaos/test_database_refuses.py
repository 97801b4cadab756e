"""PostgreSQL refuses a role, kills its backends, or keeps persist_worker waiting for longer than the broker does."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from tests.chaos.account.signs import Counts, Logged
from tests.chaos.faults.servers import OwnServers
from tests.chaos.scene.scene import BreakableScene
from tests.support.services.workers import connected, locked
from tests.support.time.conditions import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.deep, pytest.mark.timeout(300)]

_HOLDS = "database fault; holding the batch"


@pytest.mark.scenario("8", "PostgreSQL frozen for 45 s")
async def test_p1_postgres_is_frozen(scene: BreakableScene) -> None:
    """P1, P4, P8: its connections are open, and nothing comes out of them."""
    async with scene.under_load():
        with scene.servers.frozen("postgres"):
            await scene.goes_on(45)
        scene.over()
        await scene.recovers()
        await scene.goes_on(10)  # nothing was cached and sold while it was frozen: I5 wants to see some of that
    await scene.check(
        Logged("ingest_api", "postgresql for prices is away"),
        Counts("ingest_api", 'headrace_catalogue_lookups_total{source="stale"}'),
    )


@pytest.mark.scenario("8", "orders locked for 90 s, the broker's consumer timeout 60 s")
async def test_p1_a_lock_outlasts_the_consumer_timeout(scene: BreakableScene) -> None:
    """P1, P2: the broker takes back what persist_worker holds, which then writes what another delivery has as well."""
    async with consumer_timeout(scene.servers, 60):
        await scene.deployment.stop("persist_worker")  # a channel knows the timeout from when it was opened
        await scene.deployment.start("persist_worker")
        async with scene.under_load():
            async with locked(scene.database_url, "orders"):
                await scene.goes_on(90)
            scene.over()
            await scene.recovers()
        await scene.check(
            Logged("persist_worker", _HOLDS),
            Counts("persist_worker", 'headrace_batch_retries_total{queue="orders.accepted",reason="55P03"}'),
        )


@pytest.mark.scenario("3", "{times} backends of PostgreSQL killed in the middle of a COPY")
@pytest.mark.parametrize("times", [20])
async def test_p1_backends_die_in_the_middle_of_a_copy(scene: BreakableScene, times: int) -> None:
    """P1, P2: each batch is whole or not there, and is written again."""
    killed: set[int] = set()

    async def one_more_is_dead() -> bool:
        before = len(killed)
        # One that was told to end may still be there when it is looked at again.
        killed.update(row["pid"] for row in await connection.fetch(_KILL_WHO_COPIES))
        return len(killed) > before

    async with scene.under_load():
        async with connected(scene.database_url) as connection:
            while len(killed) < times:
                await eventually(one_more_is_dead, 30, 0.001)
        scene.over()
        await scene.recovers()
    await scene.check(
        Logged("persist_worker", _HOLDS),
        Counts("persist_worker", "headrace_batch_retries_total"),  # what COPY dies of has more than one name
    )


@pytest.mark.parametrize("what", ["its password is another one", "it may not write orders"])
@pytest.mark.scenario("7", "persist_worker's role for 10 s: {what}")
async def test_p12_a_role_that_is_refused_for_a_while(own_role: str, scene: BreakableScene, what: str) -> None:
    """P1, P12: nothing is parked for it, and it is used again as soon as it works."""
    break_it, mend_it, reason = _REFUSALS[what]
    async with scene.under_load(), connected(scene.database_url) as connection:
        await connection.execute(break_it.format(role=own_role))
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", own_role)
        await scene.until_it_says("persist_worker", _HOLDS)
        await scene.goes_on(10)
        await connection.execute(mend_it.format(role=own_role))
        scene.over()
        await scene.recovers()
    await scene.check(
        Logged("persist_worker", _HOLDS),
        Counts("persist_worker", f'headrace_batch_retries_total{{queue="orders.accepted",reason="{reason}"}}'),
    )


_KILL_WHO_COPIES = """
    WITH copying AS MATERIALIZED (
        SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND state = 'active' AND query ILIKE 'COPY %orders%'
    )
    SELECT pid, pg_terminate_backend(pid) FROM copying
"""
_PASSWORD = "right"
# By what it is: what breaks it, what fixes it, and the SQLSTATE that persist_worker counts.
_REFUSALS = {
    "its password is another one": (
        "ALTER ROLE {role} PASSWORD 'another'",
        f"ALTER ROLE {{role}} PASSWORD '{_PASSWORD}'",
        "28P01",
    ),
    "it may not write orders": ("REVOKE INSERT ON orders FROM {role}", "GRANT INSERT ON orders TO {role}", "42501"),
}


@pytest_asyncio.fixture(loop_scope="session")
async def own_role(
    killable: OwnServers, environment: dict[str, str], own_environment: dict[str, dict[str, str]]
) -> AsyncIterator[str]:
    """A role that persist_worker alone has. A test names it before `scene`."""
    role = f"chaos_{secrets.token_hex(4)}"
    url = environment["DATABASE_URL"]
    async with connected(url) as connection:
        await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{_PASSWORD}'")
        await connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        await connection.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
    parts = urlsplit(url)
    own_environment["persist_worker"] = {
        "DATABASE_URL": parts._replace(netloc=f"{role}:{_PASSWORD}@{parts.hostname}:{parts.port}").geturl()
    }
    yield role
    async with connected(url) as connection:
        await connection.execute(f"DROP OWNED BY {role}")
        await connection.execute(f"DROP ROLE {role}")


# ── a broker that loses patience


@asynccontextmanager
async def consumer_timeout(servers: OwnServers, seconds: int) -> AsyncIterator[None]:
    """How long RabbitMQ waits for an ack, on channels that are opened from now on. It looks every 5 s."""
    await servers.rabbitmqctl("eval", _consumer_timeout_of(seconds, 5))
    try:
        yield
    finally:
        await servers.rabbitmqctl("eval", _consumer_timeout_of(1800, 60))


def _consumer_timeout_of(seconds: int, looks_every_s: int) -> str:
    return (
        f"application:set_env(rabbit, consumer_timeout, {seconds * 1000}),"
        f" application:set_env(rabbit, channel_tick_interval, {looks_every_s * 1000})."
    )
