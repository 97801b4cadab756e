"""The mix for Locust, against real services."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.support.services.processes import free_port, service_process

_ROOT = Path(__file__).parents[2]
_RUN_TIMEOUT_S = 120.0
_FILE = "benchmarks/generators/locustfile.py"
_POPULARITY = (
    "from benchmarks.generators.locustfile import cumulative_popularity as c; "
    "import json; print(json.dumps(c(1000, 1.0)))"
)

pytestmark = pytest.mark.timeout(600)


async def run(python: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        str(python),
        *arguments,
        cwd=_ROOT,
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_RUN_TIMEOUT_S):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def test_it_orders_reads_and_lists_without_an_error(environment: dict[str, str], bench_python: Path) -> None:
    async with (
        service_process("ingest_api", environment) as ingest,
        service_process("product_api", environment) as products,
    ):
        locust = ("-m", "locust", "-f", _FILE, "--headless", "--json", "--only-summary")
        load = ("--users", "8", "--spawn-rate", "8", "--run-time", "4s", "--host", ingest.url)
        code, output, errors = await run(bench_python, *locust, *load, PRODUCTS_HOST=products.url)
    assert code == 0, errors
    asked = {it["name"]: it["num_requests"] for it in json.loads(output)}
    assert set(asked) >= {"/api/v1/orders", "/api/v1/orders/{id}", "/products/{id}"}
    assert 0.6 < asked["/api/v1/orders"] / sum(asked.values()) < 0.95


async def test_without_products_it_says_so_and_ends(bench_python: Path) -> None:
    locust = ("-m", "locust", "-f", _FILE, "--headless", "--users", "1", "--run-time", "60s")
    nowhere = f"http://127.0.0.1:{free_port()}"
    code, _, errors = await run(bench_python, *locust, "--host", nowhere, PRODUCTS_HOST=nowhere)
    assert code != 0
    assert f"cannot make products at {nowhere}" in errors


async def test_the_most_popular_product_is_ordered_twice_as_often_as_the_next(bench_python: Path) -> None:
    code, output, errors = await run(bench_python, "-c", _POPULARITY)
    assert code == 0, errors
    summed = json.loads(output)
    assert len(summed) == 1_000
    first, second = summed[0], summed[1] - summed[0]
    assert first == 2 * second
    assert 0.1 < first / summed[-1] < 0.2
