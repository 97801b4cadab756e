"""Poison orders: a constraint refuses them, the worker parks them, the constraint goes, a replay stores them."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping

import pytest_asyncio

from stack.home.directory import ROOT
from tests.chaos.scene.scene import Scene
from tests.support.services.ingest import execute
from tests.support.services.workers import connected

# The quantity that one in a thousand of `some_orders` has.
_IS_UNWANTED = "quantity % 1000 = 666"

_FORBID = f"ALTER TABLE orders ADD CONSTRAINT unwanted CHECK (NOT {_IS_UNWANTED})"
_ALLOW = "ALTER TABLE orders DROP CONSTRAINT unwanted"
# Except letters of which a copy waits already: an order whose cause was not fixed has been parked again.
_PUT_BACK = """
    UPDATE dead_letters d SET replayed_at = NULL WHERE NOT EXISTS (
        SELECT FROM dead_letters w
        WHERE w.replayed_at IS NULL AND w.stage = d.stage AND sha256(w.body) = sha256(d.body)
    )
"""
_WAITING = "SELECT count(*) FROM dead_letters WHERE replayed_at IS NULL"
_UNWANTED = f"SELECT count(*) FROM orders WHERE {_IS_UNWANTED}"


@pytest_asyncio.fixture(loop_scope="session")
async def unwanted(database_url: str) -> AsyncIterator[None]:
    """Make one order in a thousand poison, until `remove_cause`. A test names this fixture before `scene`."""
    await execute(database_url, _FORBID)
    yield


async def remove_cause(scene: Scene) -> None:
    """Remove the cause, as an operator would. Restarts the worker, because it knows the old tables."""
    await execute(scene.database_url, _ALLOW)
    await scene.deployment.stop("persist_worker")
    await scene.deployment.start("persist_worker")


async def replay(scene: Scene) -> int:
    """Run `./headrace dead replay`. Returns the number of confirmed letters."""
    environment: Mapping[str, str] = scene.deployment.environment
    replaying = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stack", "dead", "replay", "--json"),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await replaying.communicate()
    assert replaying.returncode == 0, errors.decode()
    confirmed: dict[str, int] = json.loads(output)["replayed"]  # by stage
    return sum(confirmed.values())


async def replay_twice(scene: Scene) -> None:
    """Replay, make the replayed letters wait again, and replay once more."""
    assert await replay(scene) > 0
    await execute(scene.database_url, _PUT_BACK)
    assert await replay(scene) > 0


async def waiting(scene: Scene) -> int:
    """The number of letters that wait for a replay."""
    return await _count(scene, _WAITING)


async def unwanted_orders(scene: Scene) -> int:
    """The number of stored orders that were poison before."""
    return await _count(scene, _UNWANTED)


async def _count(scene: Scene, query: str) -> int:
    async with connected(scene.database_url) as connection:
        count: int = await connection.fetchval(query)
        return count
