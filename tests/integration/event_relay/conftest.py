"""What these tests begin with."""

from collections.abc import AsyncIterator

import pytest

from database.connection import Connection
from persist_worker.write import prepare
from tests.support.scenes.events.receiver import Receiver, receiving
from tests.support.services.workers import connected


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """Prepared as persist_worker's."""
    async with connected(database_url) as it:
        await prepare(it)
        yield it


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as it:
        yield it
