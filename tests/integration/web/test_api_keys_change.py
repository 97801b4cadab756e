"""API keys that are added and revoked while a service runs, and when it refuses to start."""

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pipeline.contract.api_keys import new_token
from tests.support.data.api_keys import bearer, key_of, write_keys
from tests.support.services.ingest import Ingest, check_problem, ingesting, insert_product
from tests.support.time.conditions import eventually

SHOP, SHOP_NEW, OTHER, SLOW = (new_token() for _ in range(4))


async def test_keys_are_added_and_revoked_while_the_service_runs(environment: dict[str, str], tmp_path: Path) -> None:
    """The first key closes an open service. Revoking the last one does not open it again."""
    file, first, second = tmp_path / "api-keys.json", new_token(), new_token()
    write_keys(file)
    product_id = await insert_product(environment["DATABASE_URL"])
    async with ingesting({**environment, "API_KEYS_FILE": str(file)}) as ingest:

        async def status(token: str | None) -> int:
            return (await ingest.order(product_id, **(bearer(token) if token else {}))).status_code

        async def becomes(token: str | None, expected: int) -> None:
            await eventually(lambda: _is(status, token, expected), timeout_s=5)

        assert await status(None) == 202
        assert "no API keys: open to everybody on 127.0.0.1" in ingest.service.log()
        write_keys(file, key_of(first))
        await becomes(None, 401)
        assert await status(first) == 202
        write_keys(file, key_of(second))
        await becomes(first, 401)
        assert await status(second) == 202
        file.write_text("{")
        await eventually(lambda: "cannot read the API keys; the last good keys stay" in ingest.service.log())
        assert await status(second) == 202
        file.unlink()
        await becomes(second, 401)
        assert await status(None) == 401
        assert "every request is refused" in ingest.service.log()


async def _is(status: Callable[[str | None], Awaitable[int]], token: str | None, expected: int) -> bool:
    return await status(token) == expected


@pytest.mark.parametrize("name", ["ingest_api", "product_api"])
@pytest.mark.parametrize(
    ("host", "content", "said"),
    [
        ("0.0.0.0", None, r"API_KEYS_FILE: .*api-keys\.json is not there.*headrace keys add"),
        ("127.0.0.1", None, r"API_KEYS_FILE: .*api-keys\.json is not there.*headrace keys add"),
        ("0.0.0.0", '{"keys":[]}', r"there are no API keys, and on 0\.0\.0\.0 anybody could .*headrace keys add"),
        ("127.0.0.1", "{", r"API_KEYS_FILE: .*api-keys\.json cannot be read"),
        ("127.0.0.1", "", r"API_KEYS_FILE: .*api-keys\.json cannot be read"),
    ],
)
async def test_a_service_that_would_let_in_whom_it_should_not_does_not_start(
    tmp_path: Path, name: str, host: str, content: str | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "api-keys.json").write_text(content)
    code, log = await ended_by_itself(name, tmp_path, {f"{name.upper()}_HOST": host})
    assert code == 78
    assert re.search(f"^{name}: {said}", log, re.MULTILINE), log
    assert "Traceback" not in log


async def ended_by_itself(name: str, directory: Path, changes: dict[str, str]) -> tuple[int, str]:
    """Exit code and log of a service that ends while it reads its settings. Its servers' addresses lead nowhere."""
    nothing = {
        "DATABASE_URL": "postgresql://127.0.0.1:1/x",
        "AMQP_URL": "amqp://127.0.0.1:1",
        "REDIS_URL": "redis://127.0.0.1:1",
        "ORDER_ID_KEY": "6b" * 32,
        "API_KEYS_FILE": str(directory / "api-keys.json"),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", name),
        cwd=Path(__file__).parents[3],
        env={**os.environ, **nothing, **changes},
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        _, log = await process.communicate()
    assert process.returncode is not None
    return process.returncode, log.decode()


async def test_the_named_danger_lets_an_open_service_start_on_any_address(environment: dict[str, str]) -> None:
    danger = {"INGEST_API_HOST": "0.0.0.0", "ALLOW_UNAUTHENTICATED_ACCESS_FROM_ANYWHERE": "true"}
    async with ingesting({**environment, **danger}) as ingest:
        assert "no API keys: open to everybody on 0.0.0.0" in ingest.service.log()
        assert (await ingest.get("/metrics")).status_code == 200


async def test_without_keys_only_hosts_of_the_loopback_are_answered_and_with_keys_any(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Any web site can make a browser on this machine send requests, under the site's name."""
    keys = tmp_path / "keys.json"
    write_keys(keys)
    named = {**environment, "API_KEYS_FILE": str(keys), "ALLOWED_HOSTS": "shop.example"}
    evil = {"Host": "evil.example"}
    async with ingesting(named) as ingest:
        product_id = await insert_product(environment["DATABASE_URL"])
        port = ingest.service.url.rpartition(":")[2]
        for url in (ingest.service.url, ingest.service.health_url):
            refused = await ingest.client.get(f"{url}/health", headers=evil)
            check_problem(refused, 421, "misdirected")
            for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
                assert (await ingest.client.get(f"{url}/health", headers={"Host": host})).status_code == 200
        check_problem(await ingest.order(product_id, **evil), 421, "misdirected")
        assert (await ingest.order(product_id, Host=f"shop.example:{port}")).status_code == 202
        assert len(await ingest.queued_orders()) == 1
        write_keys(keys, key_of(SHOP))
        await eventually(lambda: _is_guarded(ingest))
        assert (await ingest.client.get("/livez", headers=evil)).status_code == 200


async def _is_guarded(ingest: Ingest) -> bool:
    return (await ingest.get("/metrics")).status_code == 401
