"""`docker compose up` runs the pipeline of `./headrace up`, with confined containers."""

import asyncio
import json
import re
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.compose.composed import ComposeStack, service_of
from tests.support.time.conditions import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

ORDERS = "/api/v1/orders"
SERVICES = ("ingest_api", "persist_worker", "product_consumer", "product_api", "event_relay")
SERVERS = ("postgres", "rabbitmq", "redis", "proxy")
JOBS = ("secrets", "accounts", "migrate", "seeds")


async def test_the_worked_example_of_the_quickstart(composed: ComposeStack) -> None:
    orders, products = await composed.url("proxy", 8080), await composed.url("proxy", 3000)
    async with httpx.AsyncClient(timeout=15) as client:
        made = await client.post(f"{products}/products", json={"name": "Laptop", "price": 1500, "qty": 50})
        product_id = made.json()["id"]
        order = await client.post(f"{orders}{ORDERS}", json={"productId": product_id, "quantity": 2})
        assert order.status_code == 202
        assert order.json()["status"] == "PENDING"
        decided = await client.get(f"{orders}{ORDERS}/{order.json()['id']}", params={"wait": 10})
        assert decided.json()["status"] == "PROCESSED"
        listed = await client.get(f"{orders}{ORDERS}/product/{product_id}")
        assert [it["id"] for it in listed.json()] == [order.json()["id"]]

        async def is_taken() -> bool:
            return bool((await client.get(f"{products}/products/{product_id}")).json()["qty"] == 48)

        await eventually(is_taken, 5)


async def test_the_commands_mean_the_containers(composed: ComposeStack) -> None:
    demo = json.loads(await composed.headrace("demo", "--orders", "5000", "--json"))
    assert (demo["lost"], demo["duplicated"], demo["oversold"]) == (0, 0, 0)
    assert "nothing lost, nothing duplicated, nothing oversold" in await composed.headrace("verify")
    assert (await composed.headrace("dead", "list")).strip() == "0 waiting to be replayed"
    status = await composed.headrace("status")
    assert "running, in containers" in status
    assert "not known" not in status
    waiting = json.loads(await composed.headrace("status", "--json"))["waiting"]
    assert {queue: it["orders"] for queue, it in waiting.items()} == {"orders.accepted": 0, "orders.created": 0}
    assert re.search(rf"ingest_api +{await composed.url('proxy', 8080)}{ORDERS} +ready", status)
    assert '"event":"starting"' in await composed.headrace("logs", "persist_worker")
    assert "already, in containers" in await composed.headrace("up", code=1)


async def test_only_the_two_apis_are_published_and_on_the_loopback(composed: ComposeStack) -> None:
    published = {}
    for container in await composed.all():
        for port, bindings in (container["NetworkSettings"]["Ports"] or {}).items():
            for binding in bindings or []:
                published[service_of(container), port] = binding["HostIp"]
    assert published == {("proxy", "8080/tcp"): "127.0.0.1", ("proxy", "3000/tcp"): "127.0.0.1"}


async def test_whoever_is_not_published_cannot_reach_the_world_either(composed: ComposeStack) -> None:
    network = json.loads(await composed.docker("network", "inspect", f"{composed.project}_backend"))[0]
    assert network["Internal"]
    # event_relay sends webhooks.
    outside = {service_of(it) for it in await composed.all() if f"{composed.project}_edge" in networks(it)}
    assert outside == {"proxy", "event_relay"}


def networks(container: dict[str, Any]) -> list[str]:
    return list(container["NetworkSettings"]["Networks"])


async def test_no_secret_is_in_an_environment_or_in_the_image(composed: ComposeStack) -> None:
    read = "import pathlib; print(*(it.read_text() for it in pathlib.Path('/run/secrets').iterdir()))"
    told = await composed.inside((await composed.of("ingest_api"))[0], read)
    secrets = set(re.findall(r"[0-9a-f]{32,}", told))
    assert len(secrets) == 4
    shown = json.dumps(await composed.all()) + await composed.docker("history", "--no-trunc", "headrace:test")
    assert [it for it in secrets if it in shown] == []
    for container in await composed.all():
        if container["State"]["Running"]:
            environment = await composed.docker("exec", container["Id"], "cat", "/proc/1/environ")
            assert [it for it in secrets if it in environment] == []


async def test_each_part_is_told_its_own_secrets_alone(composed: ComposeStack) -> None:
    for container in await composed.all():
        name = service_of(container)
        if name not in JOBS:
            own = {name} - {"proxy"}
            assert secrets_of(container) == {f"{composed.project}_{it}_secrets" for it in own}, name


def secrets_of(container: dict[str, Any]) -> set[str]:
    return {it["Name"] for it in container["Mounts"] if it.get("Name", "").endswith("_secrets")}


async def test_every_container_is_confined(composed: ComposeStack) -> None:
    found = await composed.all()
    assert {service_of(it) for it in found} == {*SERVICES, *SERVERS, *JOBS}
    for container in found:
        host, name = container["HostConfig"], service_of(container)
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert not host["CapAdd"], name
        assert not host["Privileged"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert host["Init"], name
        assert 0 < host["Memory"] <= 2 * 1024**3, name
        assert 0 < host["PidsLimit"] <= 1024, name
        assert host["RestartPolicy"]["Name"] == ("no" if name in JOBS else "unless-stopped"), name
        assert container["Config"]["User"] not in ("", "0", "root"), name
        if name in (*SERVICES, *SERVERS):
            assert container["Config"]["Healthcheck"]["Test"][0].startswith("CMD"), name
            capabilities = await composed.docker("exec", container["Id"], "grep", "CapEff", "/proc/1/status")
            assert int(capabilities.split()[1], 16) == 0, name


async def test_an_api_without_keys_does_not_start_where_strangers_reach_it(composed: ComposeStack) -> None:
    told = await composed.compose("run", "--rm", "--no-deps", "-T", "-e", "PUBLISHED_ON=0.0.0.0", "ingest_api", code=78)
    assert "on 0.0.0.0 anybody could send orders" in told


async def test_the_services_stop_in_order_within_their_grace(composed: ComposeStack) -> None:
    for name in SERVICES:
        container = (await composed.of(name))[0]
        since = time.monotonic()
        await composed.compose("stop", name)
        assert time.monotonic() - since < container["Config"]["StopTimeout"], name
        (ended,) = json.loads(await composed.docker("inspect", container["Id"]))
        assert ended["State"]["ExitCode"] == 0, name
    await composed.scale(**dict.fromkeys(SERVICES, 1))


async def test_while_no_replica_is_ready_the_proxy_says_so_and_when(composed: ComposeStack) -> None:
    url = await composed.url("proxy", 8080)
    await composed.compose("stop", "ingest_api")
    async with httpx.AsyncClient(timeout=15) as client:

        async def is_told() -> bool:
            answer = await client.post(f"{url}{ORDERS}", json={})
            if answer.status_code != 503:
                return False
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) > 0
            assert "No replica" in answer.json()["detail"]
            return True

        await eventually(is_told, 10)
        await composed.scale(ingest_api=1)

        async def is_back() -> bool:
            return (await client.post(f"{url}{ORDERS}", json={})).status_code == 422

        await eventually(is_back, 10)


async def test_a_body_that_does_not_come_is_408(composed: ComposeStack) -> None:
    parts = urlsplit(await composed.url("proxy", 8080))
    head = (
        f"POST {ORDERS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    )

    def answer() -> bytes:
        with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=20) as connection:
            connection.sendall(head.encode())
            return connection.recv(65536)

    assert (await asyncio.to_thread(answer)).startswith(b"HTTP/1.1 408 ")
