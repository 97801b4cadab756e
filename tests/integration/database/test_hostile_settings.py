"""The pipeline on servers, databases and roles that somebody else has configured: what it rests on is its own."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Literal
from urllib.parse import quote, urlsplit

import pytest

from database.connection import Connection
from database.sessions import borrow, make_pool
from proof.sessions import COMMAND_SETTINGS
from stack.operate import session, verify
from tests.support.services.deployment import Deployment, deployed
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

# Each breaks or slows the pipeline where the session does not say otherwise.
HOSTILE = {
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "synchronous_commit": "off",
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "100ms",
    "exit_on_error": "on",
    "plan_cache_mode": "force_generic_plan",
    "client_encoding": "LATIN1",
    "DateStyle": "German",
    "TimeZone": "Asia/Kathmandu",
    "tcp_user_timeout": "1ms",
    "tcp_keepalives_idle": "7200",
}
Level = Literal["server", "database", "role"]
# What the test's own look into the database needs to last.
_CALM = "&".join(f"{setting}=0" for setting in HOSTILE if "timeout" in setting)

# What a verdict takes on a busy machine; under repeatable read it took 5 to 30 s.
PROMPTLY_S = 3.0


@asynccontextmanager
async def hostile(level: Level, database_url: str, settings: dict[str, str]) -> AsyncIterator[str]:
    """The settings, for who connects within the block. Yields the URL to connect with."""
    name, role = database_url.rpartition("/")[2], f"hostile_{secrets.token_hex(4)}"
    scope = {"server": "SYSTEM", "database": f"DATABASE {name}", "role": f"ROLE {role}"}[level]
    async with connected(calm(database_url)) as connection:
        password = secrets.token_hex(8)
        await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
        await connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        await connection.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
        try:
            for setting, value in settings.items():
                await connection.execute(f"ALTER {scope} SET {setting} = '{value}'")
            await connection.execute("SELECT pg_reload_conf()")
            yield _as(role, password, database_url) if level == "role" else database_url
        finally:
            for setting in settings:
                await connection.execute(f"ALTER {scope} RESET {setting}")
            await connection.execute("SELECT pg_reload_conf()")
            await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role)
            await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def calm(database_url: str) -> str:
    """For a session that outlives all that is set."""
    return f"{database_url}?{_CALM}&default_transaction_read_only=off&exit_on_error=off"


def _as(role: str, password: str, database_url: str) -> str:
    parts = urlsplit(database_url)
    return parts._replace(netloc=f"{role}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()


# ── each setting


async def _shown(url: str, setting: str) -> str:
    async with make_pool(url, "test", size=1, timeout_s=5) as pool, borrow(pool, 5) as connection:
        return str(await connection.fetchval(f"SHOW {setting}"))


@pytest.mark.parametrize("setting", HOSTILE)
async def test_a_session_has_what_the_pipeline_rests_on_whatever_database_and_url_say(
    database_url: str, setting: str
) -> None:
    ours, theirs = await _shown(database_url, setting), HOSTILE[setting]
    async with hostile("database", database_url, {setting: theirs}) as url:
        assert await _shown(url, setting) == ours
        assert await _shown(f"{url}?{setting}={quote(theirs)}", setting) == ours
        assert await _shown(f"{url}?options={quote(f'-c {setting}={theirs}')}", setting) == ours


async def test_a_pooled_connection_keeps_its_settings_from_one_use_to_the_next(database_url: str) -> None:
    async with make_pool(database_url, "test", size=1, timeout_s=5) as pool:
        for _ in range(3):
            async with borrow(pool, 5) as connection:
                assert await connection.fetchval("SHOW default_transaction_isolation") == "read committed"
                assert await connection.fetchval("SHOW statement_timeout") == "1min"


@pytest.mark.parametrize(
    "connected_by", [verify._connected, partial(session.connected, command="dead")], ids=["verify", "dead"]
)
async def test_a_command_has_its_own_settings_too(
    database_url: str, connected_by: Callable[[str], AbstractAsyncContextManager[Connection]]
) -> None:
    async with hostile("database", database_url, HOSTILE) as url, connected_by(url) as connection:
        for setting in ("statement_timeout", "default_transaction_read_only", "default_transaction_isolation"):
            assert await connection.fetchval(f"SHOW {setting}") == COMMAND_SETTINGS[setting]
        await connection.fetchval("SELECT pg_sleep(0.1)")


# ── the whole pipeline


# A setting of the server is everybody's: no other test may run meanwhile.
_LEVELS = ["database", "role", pytest.param("server", marks=pytest.mark.alone)]


@pytest.mark.parametrize("level", _LEVELS)
async def test_p4_orders_are_accepted_stored_and_decided_promptly_whatever_others_have_set(
    environment: dict[str, str], database_url: str, level: Level
) -> None:
    async with (
        hostile(level, database_url, HOSTILE) as url,
        deployed({**environment, "DATABASE_URL": url}, database_url=calm(database_url)) as deployment,
    ):
        product = await deployment.create_product(qty=1_000)
        await asyncio.gather(*(_decided(deployment, product) for _ in range(20)))
        await asyncio.sleep(0.3)  # longer than the server lets a session be idle
        await _decided(deployment, product)
        assert (await deployment.product(product))["qty"] == 979
        for service in deployment.services.values():
            assert "database fault" not in service.log()


async def _decided(deployment: Deployment, product_id: str) -> None:
    answer = await deployment.order(product_id)
    assert answer.status_code == 202, answer.text
    began = time.monotonic()
    order = await eventually(lambda: deployment.verdict(answer.json()["id"]))
    assert order["status"] == "PROCESSED"
    assert time.monotonic() - began < PROMPTLY_S


async def test_p4_batches_that_wait_for_each_others_locks_are_not_tried_again_under_repeatable_read(
    environment: dict[str, str], database_url: str
) -> None:
    """Under it whoever waited for a row that changed meanwhile fails (40001), and holds its batch for seconds."""
    async with (
        hostile("database", database_url, {"default_transaction_isolation": "repeatable read"}),
        deployed(environment, database_url=calm(database_url)) as deployment,
    ):
        product = await deployment.create_product(qty=1_000)
        for _ in range(5):
            async with deployment.client("product_api") as client:
                restocks = (client.post(f"/products/{product}/restock", json={"quantity": 1}) for _ in range(8))
                answers = await asyncio.gather(*restocks, *(_decided(deployment, product) for _ in range(8)))
            assert {it.status_code for it in answers if it is not None} == {200}
        assert "40001" not in "".join(it.log() for it in deployment.services.values())
