"""Finds policies of the broker that remove accepted orders. An operator sets them; no queue argument prevents them.

Their effects were tried on RabbitMQ 3.10, as policies and as operator policies. Our dead-letter exchange and strategy
take precedence: messages removed from orders.accepted or orders.created are parked with their reason. Messages removed
from orders.dead, or together with a deleted queue, are lost.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from pipeline.contract.topology import ORDERS_DEAD_QUEUE
from pipeline.contract.topology import QUEUES as WORKED_ON
from stack.home.directory import Home
from stack.home.state import StackState
from stack.process.http import OPENER
from stack.servers import binaries
from stack.servers.rabbitmq import NODE, node_environment

QUEUES = (*WORKED_ON.values(), ORDERS_DEAD_QUEUE)
# The management API's default port.
_MANAGEMENT_PORT = 15672
_TIMEOUT_S = 3.0
# rabbitmqctl starts an Erlang VM: 1 s on an idle machine, ten times that on a busy one.
_CTL_TIMEOUT_S = 60.0

_REMOVES: Mapping[str, str] = {
    "message-ttl": "removes orders that wait there for {value} ms",
    "expires": "deletes the queue, with its orders, {value} ms after its last consumer has gone",
    "max-length": "removes the oldest messages past {value}",
    "max-length-bytes": "removes the oldest messages past {value} bytes",
    "delivery-limit": "dead-letters orders after {value} deliveries; Headrace expects 100",
}
_OUR_DELIVERY_LIMIT = 100


def dangers(policies: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each queue and way to lose orders. `policies`: as the management API or rabbitmqctl shows them.

    If several match a queue, only one is in force, but deleting it puts the next into force.
    """
    return [
        f"the policy {policy.get('name')!r} on {queue} {what}: {_then(queue, key)}"
        for policy in policies
        for queue in QUEUES
        if _is_for(policy, queue)
        for key, what in _removals(_definition(policy))
    ]


def _definition(policy: Mapping[str, Any]) -> Mapping[str, Any]:
    """The policy's definition. rabbitmqctl prints it as JSON text."""
    definition = policy.get("definition", {})
    if isinstance(definition, str):
        definition = json.loads(definition)
    return definition if isinstance(definition, Mapping) else {}


def _removals(definition: Mapping[str, Any]) -> list[tuple[str, str]]:
    drops_head = definition.get("overflow") in ("drop-head", "reject-publish-dlx")
    found = []
    for key, what in _REMOVES.items():
        value = definition.get(key)
        if value is None or (key.startswith("max-length") and not drops_head):
            continue  # without drop-head, the queue refuses orders and removes none
        if key == "delivery-limit" and value >= _OUR_DELIVERY_LIMIT:
            continue
        found.append((key, what.format(value=value)))
    if drops_head and not any(key.startswith("max-length") for key, _ in found):
        found.append(("overflow", "removes the oldest messages of a full queue"))
    return found


def _then(queue: str, key: str) -> str:
    if key == "expires" or queue == ORDERS_DEAD_QUEUE:
        return "they are lost"
    return "they are parked as dead letters"


def _is_for(policy: Mapping[str, Any], queue: str) -> bool:
    if policy.get("apply-to", "all") not in ("all", "queues", "quorum_queues"):
        return False
    try:
        return re.search(str(policy.get("pattern", "")), queue) is not None
    except re.error:
        return True  # a pattern of another dialect; warn rather than miss one


# ── I/O below


def read_policies(home: Home, state: StackState, amqp_url: str) -> list[Mapping[str, Any]] | None:
    """The policies of the URL's virtual host; None if they cannot be read.

    From the management API, or by rabbitmqctl for a private broker without one.
    """
    url = urlsplit(amqp_url.split(",")[0])
    vhost = unquote(url.path[1:]) or "/"
    is_private = state.parts["rabbitmq"].state != "external" if "rabbitmq" in state.parts else False
    if is_private and not state.management_url:
        return _by_command(home, state, vhost)
    if url.scheme != "amqp" and not state.management_url:
        return None  # AMQP is encrypted here, so no password is sent over plain HTTP
    login = f"{unquote(url.username or 'guest')}:{unquote(url.password or 'guest')}"
    base = _without_login(state.management_url) if is_private else f"http://{url.hostname}:{_MANAGEMENT_PORT}"
    return policies_at(base, login, vhost)


def policies_at(base: str, login: str, vhost: str) -> list[Mapping[str, Any]] | None:
    """The policies from a management API at `base`. `login`: USER:PASSWORD. None if it does not answer this user."""
    headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}
    found: list[Mapping[str, Any]] = []
    for kind in ("policies", "operator-policies"):
        request = urllib.request.Request(f"{base}/api/{kind}/{quote(vhost, safe='')}", headers=headers)  # noqa: S310
        try:
            with OPENER.open(request, timeout=_TIMEOUT_S) as response:
                found += json.load(response)
        except (OSError, ValueError):
            return None
    return found


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _by_command(home: Home, state: StackState, vhost: str) -> list[Mapping[str, Any]] | None:
    directory, binary = Path(home.path, "rabbitmq").resolve(), binaries.find("rabbitmq")
    if binary is None or "epmd" not in state.ports:
        return None
    environment = node_environment(
        directory, NODE, ERL_EPMD_ADDRESS="127.0.0.1", ERL_EPMD_PORT=str(state.ports["epmd"])
    )
    found: list[Mapping[str, Any]] = []
    for command in ("list_policies", "list_operator_policies"):
        try:
            done = subprocess.run(
                [str(binary.path.with_name("rabbitmqctl")), "-q", command, "-p", vhost, "--formatter", "json"],
                env=environment,
                capture_output=True,
                timeout=_CTL_TIMEOUT_S,
                check=True,
            )
            found += json.loads(done.stdout)
        except (OSError, ValueError, subprocess.SubprocessError):
            return None
    return found
