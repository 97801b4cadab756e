"""Runs a private RabbitMQ node, with its own port mapper (epmd).

The first Erlang node on a machine starts epmd as a daemon on a well-known port, which stays for ever. Ours starts
before the node, in the foreground and on its own port, so the supervisor stops it like every other process.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import aiormq
import aiormq.exceptions

from stack.process.child import Spec
from stack.process.ports import LOOPBACK, Ports
from stack.servers.broker_fault import BrokerFault
from stack.servers.broker_users import definitions
from stack.servers.place import Place, minimal_environment

# An administrator, for people. Services use it only in tests.
USER = "headrace"
VHOST = "/"
NODE = "headrace@localhost"
# plain: AMQP alone. ui: with the management UI. test: with the management API, and killed at the end.
Use = Literal["plain", "ui", "test"]
UI_VARIABLE = "HEADRACE_RABBITMQ_UI"
DEFAULT_PORT = 16672
DEFAULT_MANAGEMENT_PORT = 16673
DEFAULT_DISTRIBUTION_PORT = 16674
DEFAULT_EPMD_PORT = 16675

# Also used by nodes in containers, and by the tests of a cluster.
USER_CONFIGURATION = """\
default_user = {user}
default_pass = {password}
default_user_tags.administrator = true
default_permissions.configure = .*
default_permissions.read = .*
default_permissions.write = .*
"""
CONFIGURATION = """\
listeners.tcp.1 = {host}:{amqp}
# A relative limit (the size of the memory, in production) would block publishers on small disks at once.
disk_free_limit.absolute = 50MB
# Quorum queues keep what is not yet consumed in memory and in files: 40 % of the machine before publishers are blocked.
vm_memory_high_watermark.relative = 0.4
log.console = true
log.console.level = info
log.console.use_colors = off
log.file = false
"""
# Permissions: see broker_users. A node that imports definitions creates no default user.
WITH_USERS = "load_definitions = {definitions}\n"
# The management plugin is off by default. Measured on two cores, RabbitMQ 3.10: with it a start takes 7.2 s instead
# of 4.5 s, and a graceful stop 6.1 s instead of 1.1 s. Idle CPU is the same (0.4 % of a core). RabbitMQ's own script
# passes `+sbwt none`, so schedulers do not busy-wait.
MANAGEMENT = """\
management.tcp.ip = {host}
management.tcp.port = {management}
"""
# Tests only create and delete vhosts through it. Without statistics of queues and connections it starts 1.8 s sooner.
WITHOUT_STATISTICS = "management_agent.disable_metrics_collector = true\n"


@dataclass(frozen=True)
class NodePorts:
    amqp: int
    management: int
    distribution: int
    epmd: int


def choose_ports(ports: Ports) -> NodePorts:
    return NodePorts(
        amqp=ports.choose("rabbitmq", DEFAULT_PORT),
        management=ports.choose("rabbitmq_management", DEFAULT_MANAGEMENT_PORT),
        distribution=ports.choose("rabbitmq_distribution", DEFAULT_DISTRIBUTION_PORT),
        epmd=ports.choose("epmd", DEFAULT_EPMD_PORT),
    )


def url(port: int, password: str) -> str:
    return f"amqp://{USER}:{password}@{LOOPBACK}:{port}/%2F"


def management_url(port: int, password: str) -> str:
    return f"http://{USER}:{password}@{LOOPBACK}:{port}"


def epmd_spec(place: Place, ports: NodePorts) -> Spec:
    return Spec(
        name="epmd",
        argv=["epmd", "-port", str(ports.epmd), "-address", LOOPBACK],
        log=place.log.with_name("epmd.log"),
        probe=lambda: _probe_tcp(ports.epmd),
        env=minimal_environment(HOME=str(place.directory)),
        cwd=place.directory,
        identity=place.identity,
        start_timeout_s=10,
        stop_grace_s=2,
        death_signal=signal.SIGKILL,
    )


def spec(place: Place, ports: NodePorts, password: str, use: Use, users: Mapping[str, str]) -> Spec:
    """`password`: the administrator's. `users`: passwords of those in broker_users, which a test does not use."""
    return Spec(
        name="rabbitmq",
        argv=[str(place.binary.path)],
        log=place.log,
        probe=lambda: probe(url(ports.amqp, password)),
        fault=BrokerFault(url(ports.amqp, password), place.directory).look,
        env=_environment(place, ports, _configure(place, ports, password, use, users)),
        cwd=place.directory,
        identity=place.identity,
        start_timeout_s=90,
        # A test's data is deleted anyway. Otherwise RabbitMQ flushes queues and closes connections.
        stop_signal=signal.SIGKILL if use == "test" else signal.SIGTERM,
        stop_grace_s=15,
    )


def _configure(place: Place, ports: NodePorts, password: str, use: Use, users: Mapping[str, str]) -> str:
    template = CONFIGURATION + (USER_CONFIGURATION if use == "test" else WITH_USERS)
    if use != "plain":
        template += MANAGEMENT
    if use == "test":
        template += WITHOUT_STATISTICS
    imported = place.write("definitions.json", definitions(users, VHOST, (USER, password))) if use != "test" else None
    text = template.format(
        host=LOOPBACK,
        amqp=ports.amqp,
        management=ports.management,
        user=USER,
        password=password,
        definitions=imported,
    )
    place.write("enabled_plugins", "[].\n" if use == "plain" else "[rabbitmq_management].\n")
    return str(place.write("rabbitmq.conf", text))


def _environment(place: Place, ports: NodePorts, configuration: str) -> dict[str, str]:
    return node_environment(
        place.directory,
        NODE,  # not the machine's name, which may not resolve
        RABBITMQ_NODE_PORT=str(ports.amqp),
        RABBITMQ_DIST_PORT=str(ports.distribution),
        RABBITMQ_CONFIG_FILE=configuration,
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}",
        ERL_EPMD_ADDRESS=LOOPBACK,
        ERL_EPMD_PORT=str(ports.epmd),
    )


def node_environment(own: Path, name: str, **more: str) -> dict[str, str]:
    """The environment of a node called `name` that keeps all its files in `own`."""
    return minimal_environment(
        HOME=str(own),  # for the Erlang cookie
        RABBITMQ_NODENAME=name,
        RABBITMQ_MNESIA_BASE=str(own / "mnesia"),
        RABBITMQ_LOG_BASE=str(own / "log"),
        RABBITMQ_PID_FILE=str(own / "rabbitmq.pid"),
        RABBITMQ_ENABLED_PLUGINS_FILE=str(own / "enabled_plugins"),
        # Keeps out the machine's settings in /etc/rabbitmq: these files do not exist.
        RABBITMQ_CONF_ENV_FILE=str(own / "none.conf"),
        RABBITMQ_ADVANCED_CONFIG_FILE=str(own / "none.config"),
        RABBITMQ_GENERATED_CONFIG_DIR=str(own / "config"),
        # The script then replaces itself by the Erlang VM, so signals reach the VM.
        RUNNING_UNDER_SYSTEMD="true",
        # A dying VM would write a dump of hundreds of MB that nobody reads.
        ERL_CRASH_DUMP_BYTES="0",
        **more,
    )


async def probe(address: str) -> None:
    """Do one AMQP handshake (rabbitmqctl would cost seconds of CPU). Raises if the server is not ready.

    `address`: of one node, or of a cluster's nodes, separated by commas. One node that answers is enough.
    """
    *others, last = address.split(",")
    for each in others:
        with contextlib.suppress(OSError, aiormq.exceptions.AMQPError):
            return await _handshake(each)
    return await _handshake(last)


async def _handshake(address: str) -> None:
    connection = await aiormq.connect(address)
    await connection.close()


async def _probe_tcp(port: int) -> None:
    _, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.close()
