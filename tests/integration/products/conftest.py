"""A running product_api."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.scenes.products import running_product_api


@pytest.fixture
async def api(environment: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a product_api with default settings, ready."""
    async with running_product_api(environment) as client:
        yield client
