"""Wrong settings end a start with 78 and one line, without secrets. Transient faults are retried."""

import asyncio
import resource
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conftest import Servers
from tests.support.services.processes import free_port, free_ports, service_process
from tests.support.time.conditions import eventually

_ROOT = Path(__file__).parents[3]
SERVICES = ["ingest_api", "persist_worker", "product_consumer", "product_api"]


async def start(name: str, environment: Mapping[str, str], files: int | None = None) -> tuple[int | None, str]:
    """Exit code and output of a process that ends by itself. `files`: its limit of open files."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", name),
        cwd=_ROOT,
        env={**free_ports(name), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        preexec_fn=None if files is None else lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
    )
    try:
        async with asyncio.timeout(30):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode, output.decode()


@pytest.mark.parametrize("name", SERVICES)
async def test_a_process_that_cannot_use_its_settings_says_so_in_a_line_and_exits_78(
    name: str, environment: dict[str, str]
) -> None:
    prefix = name.upper()
    wrong = {
        "DATABASE_URL": "postgresql://u:s3#cret@db/d",
        "AMQP_URL": "amqp://u:s3/cret@mq/v",
        "REDIS_URL": "redis://:s3cret@cache?decode_responses=True",
    }
    code, output = await start(name, {**environment, **wrong})
    assert code == 78
    lines = output.splitlines()
    assert sorted(line.split(": ")[1] for line in lines) == sorted(wrong)
    assert not any(part in output for part in ("s3", "cret", "Traceback"))
    code, output = await start(name, {**environment, f"{prefix}_POTR": "1"})
    assert (code, output) == (78, f"{name}: {prefix}_POTR: is not a setting; did you mean {prefix}_PORT?\n")


@pytest.mark.parametrize("name", ["ingest_api", "product_api"])
async def test_too_few_open_files_are_a_line_and_exit_78(name: str, environment: dict[str, str]) -> None:
    port = {f"{name.upper()}_PORT": str(free_port())}
    code, output = await start(name, {**environment, **port}, files=4096)
    assert (code, "Traceback" in output) == (78, False)
    assert "and the system allows 4096" in output.splitlines()[-1]


@pytest.mark.parametrize("name", SERVICES)
async def test_a_port_that_is_taken_is_a_line_and_no_traceback(name: str, environment: dict[str, str]) -> None:
    holder = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = holder.sockets[0].getsockname()[1]
    async with holder:
        code, output = await start(name, {**environment, f"{name.upper()}_PORT": str(port)})
    assert (code, "Traceback" in output) == (78, False)
    assert f"cannot listen on 127.0.0.1:{port}" in output


@pytest.fixture
async def broker(servers: Servers) -> AsyncIterator[httpx.AsyncClient]:
    """The broker's management API."""
    async with httpx.AsyncClient(base_url=servers.rabbitmq_api, timeout=30) as api:
        yield api


@asynccontextmanager
async def said_by_the_broker(environment: Mapping[str, str], amqp_url: str) -> AsyncIterator[str]:
    """What persist_worker's readiness and log say about a broker that refuses it."""
    async with (
        service_process("persist_worker", {**environment, "AMQP_URL": amqp_url}, ready="/livez") as worker,
        httpx.AsyncClient() as client,
    ):

        async def told() -> str:
            parts = (await client.get(f"{worker.url}/health")).json()["parts"]
            return str(parts["consumer"])

        async def is_told() -> bool:
            return (await told()).startswith("RabbitMQ: ")

        await eventually(is_told)
        assert "InvalidFrameError" not in worker.log()
        text = await told()
        assert text.removeprefix("RabbitMQ: ") in worker.log()
        yield text


async def test_what_the_broker_says_is_what_health_and_log_say(
    environment: dict[str, str], amqp_url: str, broker: httpx.AsyncClient
) -> None:
    elsewhere = amqp_url.rpartition("/")[0]
    async with said_by_the_broker(environment, f"{elsewhere}/nowhere") as text:
        assert text == "RabbitMQ: NOT_ALLOWED - vhost nowhere not found"
    vhost, user = urlsplit(amqp_url).path[1:], urlsplit(amqp_url).username
    wrong = amqp_url.replace(f":{urlsplit(amqp_url).password}@", ":wrong@")
    async with said_by_the_broker(environment, wrong) as text:
        assert text.startswith("RabbitMQ: ACCESS_REFUSED - Login was refused")
    limit = f"/api/vhost-limits/{vhost}/max-connections"
    (await broker.put(limit, json={"value": 0})).raise_for_status()
    async with said_by_the_broker(environment, amqp_url) as text:
        assert "connection limit (0) is reached" in text
    (await broker.delete(limit)).raise_for_status()
    (await broker.delete(f"/api/permissions/{vhost}/{user}")).raise_for_status()
    async with said_by_the_broker(environment, amqp_url) as text:
        assert text == f"RabbitMQ: NOT_ALLOWED - access to vhost '{vhost}' refused for user '{user}'"
