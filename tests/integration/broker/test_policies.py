"""Orders that an operator's policy removes from our queues are parked with that reason, and reported (P4)."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from pipeline.contract import topology
from pipeline.contract.reasons import Reason
from stack.servers.policies import dangers, policies_at
from tests.conftest import Servers
from tests.support.brokers.broker import plain_channel
from tests.support.brokers.dead_letters import headrace_dead
from tests.support.services.ingest import ORDERS, Ingest, ingesting, vhost_of
from tests.support.services.processes import service_process
from tests.support.time.conditions import eventually

ACCEPTED = "^orders[.]accepted$"


@pytest.fixture
async def ingest(environment: Mapping[str, str]) -> AsyncIterator[Ingest]:
    async with ingesting(environment) as it:
        yield it


async def set_policy(servers: Servers, vhost: str, pattern: str, **definition: object) -> None:
    named = {name.replace("_", "-"): value for name, value in definition.items()}
    body = {"pattern": pattern, "definition": named, "apply-to": "queues"}
    async with httpx.AsyncClient(base_url=servers.rabbitmq_api, timeout=30) as api:
        (await api.put(f"/api/policies/{vhost}/p", json=body)).raise_for_status()


async def remove_policy(servers: Servers, vhost: str) -> None:
    async with httpx.AsyncClient(base_url=servers.rabbitmq_api, timeout=30) as api:
        (await api.delete(f"/api/policies/{vhost}/p")).raise_for_status()


@pytest.mark.parametrize(
    ("reason", "definition"),
    [(Reason.EXPIRED, {"message_ttl": 100}), (Reason.MAXLEN, {"max_length": 1, "overflow": "drop-head"})],
)
async def test_p4_what_a_policy_removes_is_parked_and_becomes_an_order_when_it_is_replayed(
    environment: dict[str, str],
    servers: Servers,
    amqp_url: str,
    ingest: Ingest,
    laptop: str,
    reason: str,
    definition: dict[str, Any],
) -> None:
    await set_policy(servers, vhost_of(amqp_url), ACCEPTED, **definition)
    ids = [(await ingest.order(laptop)).json()["id"] for _ in range(5)]
    await eventually(lambda: is_dead(amqp_url))
    async with (
        service_process("persist_worker", environment) as worker,
        service_process("product_consumer", environment),
    ):

        async def answers() -> list[dict[str, Any]]:
            return [(await ingest.get(f"{ORDERS}/{it}")).json() for it in ids]

        async def none_waits() -> bool:
            return all(it["status"] != "PENDING" for it in await answers())

        await eventually(none_waits)
        failed = [it for it in await answers() if it["status"] == "FAILED"]
        assert len(failed) >= 3
        assert {(it["reason"], it["final"]) for it in failed} == {(reason, False)}
        sample = f'headrace_orders_parked_total{{reason="{reason}",stage="persist"}}'

        async def are_counted() -> bool:  # after the commit that answers tell of
            return await worker.metric(sample) == len(failed)

        await eventually(are_counted)
        await remove_policy(servers, vhost_of(amqp_url))
        await headrace_dead(environment, "replay", "--reason", reason)

        async def all_are_processed() -> bool:
            return all(it["status"] == "PROCESSED" for it in await answers())

        await eventually(all_are_processed)


async def is_dead(amqp_url: str) -> bool:
    async with plain_channel(amqp_url) as channel:
        declared = await channel.declare_queue(topology.ORDERS_DEAD_QUEUE, passive=True)
        return bool(declared.declaration_result.message_count)


async def test_what_a_policy_removes_for_good_is_told_by_who_accepted_it(
    environment: dict[str, str], servers: Servers, amqp_url: str, ingest: Ingest, laptop: str
) -> None:
    """The policy matches orders.dead as well, and no consumer parked its messages."""
    await set_policy(servers, vhost_of(amqp_url), ".*", message_ttl=100)
    assert (await ingest.order(laptop, 3)).status_code == 202
    await eventually(lambda: is_empty(amqp_url))
    async with service_process("persist_worker", environment), service_process("product_consumer", environment):

        async def is_told() -> bool:
            oldest = await ingest.metric('headrace_backlog_oldest_seconds{queue="orders.accepted"}')
            return oldest > 3 and await ingest.metric('headrace_backlog_orders{queue="orders.accepted"}') == 1

        await eventually(is_told)


async def is_empty(amqp_url: str) -> bool:
    async with plain_channel(amqp_url) as channel:
        queues = (topology.ORDERS_ACCEPTED_QUEUE, topology.ORDERS_DEAD_QUEUE)
        declared = [await channel.declare_queue(name, passive=True) for name in queues]
        return not any(it.declaration_result.message_count for it in declared)


async def test_the_management_api_shows_which_policies_remove_orders(servers: Servers, amqp_url: str) -> None:
    api = urlsplit(servers.rabbitmq_api)
    base, login, vhost = f"http://{api.hostname}:{api.port}", f"{api.username}:{api.password}", vhost_of(amqp_url)
    assert await asyncio.to_thread(policies_at, base, login, vhost) == []
    await set_policy(servers, vhost, ACCEPTED, message_ttl=100)
    found = await asyncio.to_thread(policies_at, base, login, vhost)
    assert found is not None
    assert len(dangers(found)) == 1
    assert await asyncio.to_thread(policies_at, base, f"{api.username}:wrong", vhost) is None
    assert await asyncio.to_thread(policies_at, "http://127.0.0.1:1", login, vhost) is None
