"""The whole upgrade as docs/operate/upgrade.md orders it, from the schema of the release before, under load."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import Servers, own_database
from tests.support.clients.load import accepted_ids, loading
from tests.support.scenes.upgrades import account_for, upgrade
from tests.support.services.deployment import SERVICES, Deployment, deployed
from tests.support.services.processes import ROOT, service_process


@pytest.fixture
def database_url(servers: Servers) -> Iterator[str]:
    """An empty database."""
    with own_database(servers, "template1") as url:
        yield url


@pytest.fixture
async def deployment(environment: Mapping[str, str], previous: Path) -> AsyncIterator[Deployment]:
    """All of the release before, the schema too."""
    await migrate(previous, environment)
    async with deployed(environment, trees=dict.fromkeys(SERVICES, previous)) as it:
        yield it


async def migrate(tree: Path, environment: Mapping[str, str]) -> None:
    command = (sys.executable, "-m", "migrations")
    process = await asyncio.create_subprocess_exec(*command, cwd=tree, env={**os.environ, **environment})
    assert await process.wait() == 0


async def test_p1_p2_p9_an_upgrade_under_load_refuses_no_order_loses_none_and_repeats_none(
    deployment: Deployment, environment: Mapping[str, str]
) -> None:
    products = [await deployment.create_product(1_000_000) for _ in range(3)]
    async with loading(deployment.url("ingest_api"), products, clients=8) as load:
        await load.more(200)
        await migrate(ROOT, environment)
        await load.more(200)
        assert await upgrade(deployment, "product_consumer", "persist_worker") == [0, 0]
        await load.more(200)
        # As behind a proxy: the next ingest_api is ready before the last one of the release before stops.
        async with (
            service_process("ingest_api", environment) as following,
            loading(following.url, products, clients=8) as more,
        ):
            await more.more(200)
            result = await load.end()
            assert await upgrade(deployment, "ingest_api", "product_api") == [0, 0]
            await more.more(200)
            last = await more.end()
    assert set(result.by_status()) == set(last.by_status()) == {202}
    counts = await account_for(deployment, accepted_ids(result) | accepted_ids(last))
    assert counts.dead_letters == 0
