"""Three RabbitMQ nodes on this machine, each in a network namespace of its own, so that one can be cut off.

A bridge connects them and this machine, so clients reach a node that its neighbours do not. Needs root.

The bridge has a network namespace of its own. Docker makes the kernel drop bridged packets that are not Docker's, and
does so again whenever it starts, but only in its own namespace.
"""

import asyncio
import contextlib
import os
import re
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiormq
import aiormq.exceptions

from stack.home.directory import ROOT
from stack.process.identity import give, identity_for, wrap
from stack.servers import binaries
from stack.servers.rabbitmq import USER, USER_CONFIGURATION, node_environment
from tests.support.brokers.erlang import ask_node
from tests.support.time.conditions import eventually

COUNT = 3
_START_TIMEOUT_S = 120
_STOP_TIMEOUT_S = 60
_LOOK_EVERY_S = 0.25
# Time for a lost node to rejoin.
_BY_ITSELF_S, _WHOLE_TIMEOUT_S = 20, 60
_DISTRIBUTION_PORT = 25672
_BRIDGE, _LINK = "bridge", "cluster"

# Partition handling and timeouts, as deployed.
_DEPLOYED = re.findall(
    r"^(?:cluster_partition_handling|net_ticktime|queue_leader_locator) = .+\n",
    (ROOT / "deploy" / "cluster" / "cluster.conf").read_text(),
    re.MULTILINE,
)
_CONFIGURATION = (
    """\
listeners.tcp.1 = {own}:5672
cluster_formation.peer_discovery_backend = classic_config
{nodes}
disk_free_limit.absolute = 50MB
log.console = true
log.console.level = info
log.file = false
"""
    + "".join(_DEPLOYED)
    + USER_CONFIGURATION
)


@dataclass
class Node:
    number: int
    address: str
    directory: Path
    namespace: str
    process: asyncio.subprocess.Process | None = None

    @property
    def name(self) -> str:
        return f"headrace@{self.address}"

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.returncode is None


@dataclass
class Cluster:
    directory: Path
    subnet: str
    """The first three bytes of all addresses."""
    link: str
    """This machine's end of its link to the bridge."""
    hub: str
    """The namespace of the bridge."""
    password: str = field(default_factory=lambda: secrets.token_hex(16))
    cookie: str = field(default_factory=lambda: secrets.token_hex(16))
    nodes: list[Node] = field(default_factory=list)

    @property
    def amqp_url(self) -> str:
        """AMQP_URL with all nodes."""
        return ",".join(map(self.url, self.nodes))

    def url(self, node: Node) -> str:
        return f"amqp://{USER}:{self.password}@{node.address}:5672/%2F"

    # ── faults

    async def kill(self, node: Node) -> None:
        await self._end(node, signal.SIGKILL)

    async def stop(self, node: Node) -> None:
        """Stop a node gracefully, as a rolling restart does."""
        await self._end(node, signal.SIGTERM)

    def pause(self, node: Node) -> None:
        self._signal(node, signal.SIGSTOP)

    def resume(self, node: Node) -> None:
        self._signal(node, signal.SIGCONT)

    async def cut_off(self, node: Node) -> None:
        """Drop all packets between a node and its neighbours, in both directions. Clients still reach the node."""
        for other in self._others(node):
            await _ip("-n", node.namespace, "route", "add", "blackhole", f"{other.address}/32")

    async def heal(self, node: Node) -> None:
        for other in self._others(node):
            await _ip("-n", node.namespace, "route", "del", "blackhole", f"{other.address}/32")

    async def start(self, node: Node) -> None:
        """Start a node, and wait until it takes connections; it has joined the others by then."""
        node.process = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", node.namespace),
            *wrap([str(_program("rabbitmq-server"))], identity_for("rabbitmq"), signal.SIGKILL),
            env=self._environment(node),
            cwd=node.directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=(node.directory / "node.log").open("ab"),
            stderr=asyncio.subprocess.STDOUT,
        )
        await self.until_ready(node)

    async def until_ready(self, node: Node) -> None:
        await eventually(lambda: self._answers(node), _START_TIMEOUT_S, _LOOK_EVERY_S)

    async def bring_back(self, node: Node) -> None:
        """Wait for a node to rejoin. If it does not, restart it, as the documents say."""
        try:
            await eventually(self._is_whole, _BY_ITSELF_S, _LOOK_EVERY_S)
        except AssertionError:
            await self.kill(node)
            await self.start(node)
        await self.until_whole()

    async def until_whole(self) -> None:
        """Wait until every node has joined the others again."""
        await eventually(self._is_whole, _WHOLE_TIMEOUT_S, _LOOK_EVERY_S)

    async def restore(self) -> None:
        """Bring all nodes back into the cluster, and delete the queues that a test left."""
        for node in self.nodes:
            if node.runs:
                self.resume(node)
                with contextlib.suppress(AssertionError):
                    await self.heal(node)
            if not node.runs:
                await self.start(node)
        if not await self._is_whole():
            # After a failed test, a node may never see the others again by itself.
            for node in self.nodes:
                await self.kill(node)
                await self.start(node)
        await self.until_whole()

    # ── what it is like

    async def _is_whole(self) -> bool:
        """Whether each node sees all nodes, and reports no partition."""
        for node in self.nodes:
            try:
                running = await self.ask(node, "rabbit_mnesia:cluster_nodes(running)")
                partitions = await self.ask(node, "rabbit_node_monitor:partitions()")
            except ConnectionError:
                return False
            if len(running) < COUNT or partitions:
                return False
        return True

    async def leader_of(self, queue: str) -> Node:
        """The leader of a quorum queue, as a running node reports it."""
        leader = (await self._about(queue))["leader"]
        return next(node for node in self.nodes if node.name == leader)

    async def leader_with_clients(self, queue: str) -> Node:
        """The leader of a quorum queue, moved to a node that has a client's connection if its own has none.

        Clients choose a node at random. A leader without clients may be replaced so soon that none of them notices.
        """
        leader = await self.leader_of(queue)
        with_clients = await self.ask(self._one(), "[node(It) || It <- rabbit_networking:connections()]")
        if leader.name in with_clients:
            return leader
        other = next(node for node in self.nodes if node.name in with_clients)
        move = f"rabbit_quorum_queue:transfer_leadership(Queue, '{other.name}'), ok"
        await self.ask(leader, f"{_look_up(queue)}, {move}")

        async def has_moved() -> bool:
            return await self.leader_of(queue) is other

        await eventually(has_moved, _WHOLE_TIMEOUT_S, _LOOK_EVERY_S)
        return other

    async def members_of(self, queue: str) -> set[str]:
        """The names of the nodes on which a replica of the queue runs."""
        return set((await self._about(queue))["online"])

    async def _about(self, queue: str) -> dict[str, Any]:
        """What a quorum queue reports about its replicas: `leader` and `online`."""
        info = "maps:from_list(rabbit_quorum_queue:info(Queue, [leader, online]))"
        found: dict[str, Any] = await self.ask(self._one(), f"{_look_up(queue)}, {info}")
        return found

    async def ask(self, node: Node, erlang: str) -> Any:
        """The value of an Erlang expression, evaluated on a node. Raises ConnectionError, AssertionError."""
        return await ask_node(f"{node.address}:{_DISTRIBUTION_PORT}", self.cookie, erlang)

    def _one(self) -> Node:
        return next(it for it in self.nodes if it.runs)

    def log(self, node: Node) -> str:
        return (node.directory / "node.log").read_text(errors="replace")

    def _others(self, node: Node) -> Iterator[Node]:
        return (other for other in self.nodes if other is not node)

    def _signal(self, node: Node, number: signal.Signals) -> None:
        assert node.process is not None
        os.kill(node.process.pid, number)

    async def _end(self, node: Node, number: signal.Signals) -> None:
        assert node.process is not None
        self._signal(node, number)
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await node.process.wait()

    async def _answers(self, node: Node) -> bool:
        assert node.runs, self.log(node)[-4000:]
        try:
            async with asyncio.timeout(4):
                connection = await aiormq.connect(self.url(node))
                await connection.close()
        except (OSError, aiormq.exceptions.AMQPError):
            return False
        return True

    def _environment(self, node: Node) -> dict[str, str]:
        configuration = str(node.directory / "rabbitmq.conf")
        return node_environment(
            node.directory,
            node.name,
            RABBITMQ_USE_LONGNAME="true",
            RABBITMQ_CONFIG_FILE=configuration,
            RABBITMQ_DIST_PORT=str(_DISTRIBUTION_PORT),
        )

    def _prepare(self, node: Node) -> None:
        identity = identity_for("rabbitmq")
        node.directory.mkdir()
        # The others join the first node. If it knew of them, it would wait minutes for them, as they are not up yet.
        known = self.nodes[:1] if node is self.nodes[0] else self.nodes
        names = "\n".join(f"cluster_formation.classic_config.nodes.{it.number} = {it.name}" for it in known)
        configuration = _CONFIGURATION.format(own=node.address, user=USER, password=self.password, nodes=names)
        for name, text in {
            "rabbitmq.conf": configuration,
            "enabled_plugins": "[].\n",
            ".erlang.cookie": self.cookie,
        }.items():
            path = node.directory / name
            path.write_text(text)
            path.chmod(0o400)
            give(path, identity)
        give(node.directory, identity)

    async def _make_network(self) -> None:
        await _ip("netns", "add", self.hub)
        await _ip("-n", self.hub, "link", "add", _BRIDGE, "type", "bridge")
        await _ip("-n", self.hub, "link", "set", _BRIDGE, "up")
        await self._plug("machine", "name", self.link)
        await _ip("address", "add", f"{self.subnet}.1/24", "dev", self.link)
        await _ip("link", "set", self.link, "up")
        for node in self.nodes:
            await _ip("netns", "add", node.namespace)
            await self._plug(f"node{node.number}", "name", _LINK, "netns", node.namespace)
            await _ip("-n", node.namespace, "address", "add", f"{node.address}/24", "dev", _LINK)
            await _ip("-n", node.namespace, "link", "set", _LINK, "up")
            await _ip("-n", node.namespace, "link", "set", "lo", "up")

    async def _plug(self, port: str, *other_end: str) -> None:
        """Link the bridge with `other_end`."""
        await _ip("link", "add", port, "netns", self.hub, "type", "veth", "peer", *other_end)
        await _ip("-n", self.hub, "link", "set", port, "master", _BRIDGE, "up")

    async def _remove(self) -> None:
        for node in self.nodes:
            # The port mapper that a node started goes on as an orphan.
            pids = (await _ip("netns", "pids", node.namespace)).split()
            for pid in map(int, pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if node.process is not None:
                await node.process.wait()
            await _ip("netns", "delete", node.namespace)
        await _ip("netns", "delete", self.hub)  # and with it the links


@contextlib.asynccontextmanager
async def three_nodes(directory: Path) -> AsyncIterator[Cluster]:
    """Run a cluster of three nodes for the block. `directory`: one that RabbitMQ's user can reach."""
    assert os.geteuid() == 0, "network namespaces need root: sudo ./headrace test cluster"
    assert binaries.find("rabbitmq"), "RabbitMQ is not installed. ./headrace test installs it."
    tag = f"{os.getpid() % 10_000}"
    cluster = Cluster(directory, f"10.213.{os.getpid() % 200 + 20}", f"headrace{tag}", f"headrace{tag}-hub")
    cluster.nodes = [
        Node(number, f"{cluster.subnet}.{10 + number}", directory / f"node{number}", f"headrace{tag}-{number}")
        for number in range(1, COUNT + 1)
    ]
    try:
        await cluster._make_network()
        for node in cluster.nodes:
            cluster._prepare(node)
        # Start the first node alone: two that start at once might each form a cluster of its own.
        first, *others = cluster.nodes
        await cluster.start(first)
        await asyncio.gather(*map(cluster.start, others))
        yield cluster
    finally:
        await cluster._remove()


def _look_up(queue: str) -> str:
    """Erlang that binds Queue to the record of a queue."""
    return f'{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>))'


async def _ip(*arguments: str) -> str:
    return await _run("ip", *arguments)


async def _run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, f"{' '.join(command)}: {out.decode()}"
    return out.decode()


def _program(name: str) -> Path:
    found = binaries.find("rabbitmq")
    assert found is not None
    return found.path.with_name(name)
