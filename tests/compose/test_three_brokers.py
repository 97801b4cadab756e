"""deploy/cluster: one of three brokers is gone for a minute, and orders go on."""

import itertools
import re
import time

import pytest

from tests.chaos.scene.attempts import Verdict
from tests.chaos.scene.client import Client
from tests.compose.composed import ComposeStack
from tests.compose.test_under_load import account, goes_on, under_load
from tests.support.time.conditions import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

COMPOSE_FILE = "docker-compose.yml:deploy/cluster/docker-compose.yml"
NODES = ("rabbitmq", "rabbitmq-2", "rabbitmq-3")
_QUEUES = ("orders.accepted", "orders.created", "orders.cancel_requested", "orders.dead")
# Several times longer than nodes and resolvers take to notice a loss.
_AWAY_S = 60
_BACK_WITHIN_S = 15


async def leaders(composed: ComposeStack, asked: str) -> dict[str, str]:
    """Queue → its leader, as a running node reports it."""
    told = await composed.compose("exec", "-T", asked, "rabbitmqctl", "list_queues", "--silent", "name", "leader")
    found = dict(line.split("\t") for line in told.splitlines() if "\t" in line)
    return {queue: found[queue].removeprefix("rabbit@") for queue in _QUEUES}


def missed(node: str, log: str) -> bool:
    return re.search(rf"node '?rabbit@{node}'? down", log) is not None


async def said(composed: ComposeStack, node: str, since: str) -> str:
    return await composed.compose("logs", "--no-log-prefix", "--since", since, node)


async def test_the_queues_are_on_three_nodes_and_the_table_shows_them(composed: ComposeStack) -> None:
    told = await composed.compose("exec", "-T", NODES[0], "rabbitmqctl", "list_queues", "--silent", "name", "online")
    online = dict(line.split("\t") for line in told.splitlines() if "\t" in line)
    assert {queue: len(online[queue].split(", ")) for queue in _QUEUES} == dict.fromkeys(_QUEUES, 3)
    assert "ready × 3" in await composed.headrace("status")


async def test_a_node_is_found_by_its_bare_name_whatever_domains_its_machine_searches(composed: ComposeStack) -> None:
    for node in NODES:
        (container,) = await composed.of(node)
        assert container["HostConfig"]["DnsSearch"] == ["."]
        resolver = await composed.docker("exec", container["Id"], "cat", "/etc/resolv.conf")
        assert [line for line in resolver.splitlines() if line.startswith("search")] == []


@pytest.mark.deep
async def test_p1_one_broker_is_killed_and_stays_away_and_comes_back(composed: ComposeStack) -> None:
    async with under_load(composed, 4) as client:
        await goes_on(client, 500)
        victim = (await leaders(composed, NODES[0]))["orders.accepted"]
        others = [it for it in NODES if it != victim]
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        await composed.compose("kill", victim)
        await passes(client, _AWAY_S)
        for node in others:
            log = await said(composed, node, since)
            assert missed(victim, log), f"{node} did not miss {victim}"
            assert [it for it in others if missed(it, log)] == [], f"{node} missed one that was there"
        await composed.compose("start", victim)
        await composed.until_ready(victim, 1)
        await goes_on(client, 500)
    assert longest_pause_s(client) < _BACK_WITHIN_S
    await account(composed, client)


@pytest.mark.deep
async def test_p1_one_broker_is_frozen_and_restarted_when_it_goes_on(composed: ComposeStack) -> None:
    async with under_load(composed, 5) as client:
        await goes_on(client, 500)
        victim = (await leaders(composed, NODES[0]))["orders.accepted"]
        await composed.compose("pause", victim)
        await passes(client, _AWAY_S)
        await composed.compose("unpause", victim)
        await goes_on(client, 500)
        await composed.compose("restart", victim)
        await composed.until_ready(victim, 1)
        await goes_on(client, 500)
    assert longest_pause_s(client) < _BACK_WITHIN_S
    await account(composed, client)


async def passes(client: Client, seconds: float) -> None:
    """Wait until orders have been sent for this long."""
    until_s = time.time() + seconds
    await eventually(lambda: client.attempts[-1].sent_s > until_s, seconds + 30, 0.5)


def longest_pause_s(client: Client) -> float:
    """The longest time between two accepted orders."""
    accepted_s = sorted(it.ended_s for it in client.attempts if it.verdict is Verdict.OK and it.ended_s is not None)
    return max(after - before for before, after in itertools.pairwise(accepted_s))
