"""deploy/kubernetes: it holds no secret, is confined, and nobody reaches more than they need."""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from pipeline.contract import topology
from tests.support.data.kustomized import (
    BROKER,
    DIRECTORY,
    NAME,
    VARIANTS,
    Object,
    Objects,
    Peer,
    broker_pod,
    containers,
    may_talk,
    of_kind,
    peers,
    pods,
    rendered,
    rendered_text,
    selects,
)
from tests.support.data.kustomized_services import APIS, REQUIRED, SETTINGS, USE_REDIS, settings_of


@pytest.mark.parametrize("path", sorted(DIRECTORY.rglob("*.yaml")), ids=lambda it: str(it.relative_to(DIRECTORY)))
def test_no_file_holds_a_secret(path: Path) -> None:
    assert_no_secret(path.read_text())


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_that_is_rendered_holds_a_secret(variant: str) -> None:
    assert_no_secret(rendered_text(variant))
    for _, pod in pods(rendered(variant)):
        for container in containers(pod):
            assert not {it["name"] for it in container["env"]} & {*REQUIRED}


def assert_no_secret(text: str) -> None:
    assert not re.search(r"\bkind\W+Secret\b|secretGenerator|stringData", text)
    assert not re.search(r"://[^/\s:]+:[^@\s]+@", text)
    assert not re.search(r"(?i)\bpass(word|wd|phrase)\b['\"]?\s*[:=]", text)
    assert not re.search(r"[0-9a-f]{32}", text)


def test_every_container_is_confined(objects: Objects) -> None:
    found = list(pods(objects))
    assert {name for name, _ in found} == {*SETTINGS, "migrate"}
    for name, pod in found:
        assert_restricted(pod)
        assert pod["spec"]["securityContext"]["runAsUser"] == 10001, name
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        for container in containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert container["resources"]["limits"]["memory"], name
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}, name


def test_the_broker_is_let_into_a_namespace_that_lets_in_the_confined_alone(objects: Objects) -> None:
    (namespace,) = of_kind(objects, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = broker_pod(objects)
    # As the operator names them.
    assert [it["name"] for it in containers(pod)] == ["setup-container", "rabbitmq"]
    assert_restricted(pod)


def assert_restricted(pod: Object) -> None:
    """What the Pod Security Standard of that name demands."""
    spec = pod["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert all({"emptyDir", "secret"} & set(it) for it in spec.get("volumes", []))
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for it in containers(pod):
        assert it["securityContext"]["allowPrivilegeEscalation"] is False, it["name"]
        assert it["securityContext"]["capabilities"] == {"drop": ["ALL"]}, it["name"]
        assert not {"privileged", "runAsUser", "runAsNonRoot", "seccompProfile"} & set(it["securityContext"])
        assert all("hostPort" not in port for port in it.get("ports", []))


def test_nobody_talks_to_anybody_unless_it_is_said(objects: Objects) -> None:
    policies = [it["spec"] for it in of_kind(objects, "NetworkPolicy").values()]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies


def test_each_policy_is_about_somebody(objects: Objects) -> None:
    everybody = [it.labels for it in peers(objects).values()]
    names = {labels[NAME] for labels in everybody}
    for name, policy in of_kind(objects, "NetworkPolicy").items():
        assert any(selects(policy["spec"]["podSelector"], labels) for labels in everybody), name
        assert set(names_in(policy["spec"])) <= names, name


def names_in(part: Any) -> Iterator[str]:
    """All that a label `app.kubernetes.io/name` is compared with, anywhere below."""
    if isinstance(part, list):
        for it in part:
            yield from names_in(it)
    elif isinstance(part, dict):
        if part.get("key") == NAME:
            yield from part["values"]
        if NAME in part:
            yield part[NAME]
        for it in part.values():
            yield from names_in(it)


def test_who_needs_whom_reaches_them_and_nobody_else_does(objects: Objects) -> None:
    ours = peers(objects)
    world = {
        **ours,
        "outside": Peer(),
        **{it: Peer(it) for it in ("kube-system", "monitoring", "keda", "rabbitmq-system")},
    }
    allowed = {
        *product(SETTINGS, ["outside"], [5432]),
        *product(USE_REDIS, ["outside"], [6379]),
        # Receivers of webhooks.
        ("event-relay", "outside", 443),
        ("migrate", "outside", 5432),
        *product(SETTINGS, [BROKER], [5672]),
        *product([BROKER], [BROKER], [4369, 25672, 35672, 35682]),
        *product(["keda", "rabbitmq-system"], [BROKER], [15672]),
        ("monitoring", BROKER, 15692),
        *product(ours, ["kube-system"], [53]),
        *(("monitoring", name, settings_of(name).port) for name in SETTINGS if name not in APIS),
        # So that its nodes ask the cluster's own API.
        *product([BROKER], ["outside"], [443, 6443]),
    }
    for name in APIS:
        port = settings_of(name).port
        allowed |= {(who, name, port) for who in world if who not in ours}
    ports = {port for _, _, port in allowed}
    found = {
        (who, whom, port)
        for who, whom, port in product(world, world, ports)
        # What others do to each other is theirs to say; of ours, what is open to all is told by the one outside.
        if (who in ours or whom in ours)
        and not (who in ours and whom in ("monitoring", "keda", "rabbitmq-system"))
        and not (whom == "kube-system" and port != 53)
        and may_talk(objects, world[who], world[whom], port)
    }
    assert found == allowed


def test_keda_sees_queues_and_can_neither_read_nor_write_one(objects: Objects) -> None:
    users = of_kind(objects, "User")
    (trigger,) = of_kind(objects, "TriggerAuthentication").values()
    (secret,) = {it["name"] for it in trigger["spec"]["secretTargetRef"]}
    (keda,) = (name for name, it in users.items() if it["spec"]["importCredentialsSecret"]["name"] == secret)
    assert users[keda]["spec"]["tags"] == ["management"]
    assert [name for name, it in users.items() if "tags" in it["spec"]] == [keda]
    (allowed,) = (
        it["spec"] for it in of_kind(objects, "Permission").values() if it["spec"]["userReference"]["name"] == keda
    )
    assert set(allowed["permissions"].values()) == {"^$"}
    assert allowed["vhost"] == "headrace"


def test_the_services_may_do_at_the_broker_what_they_do_and_nothing_else(objects: Objects) -> None:
    """All of them together; each by itself is stack/servers/broker_users.py's, see test_kubernetes_agreement."""
    permissions = [it["spec"]["permissions"] for it in of_kind(objects, "Permission").values()]
    names = {
        *(topology.ORDERS_EXCHANGE, topology.PRODUCTS_EXCHANGE, topology.DEAD_EXCHANGE),
        *(topology.ORDERS_ACCEPTED_QUEUE, topology.ORDERS_CREATED_QUEUE),
        *(topology.ORDERS_CANCEL_REQUESTED_QUEUE, topology.ORDERS_DEAD_QUEUE),
        "amq.gen-abc",
    }
    for kind in ("configure", "write", "read"):
        patterns = [it[kind] for it in permissions]
        assert {name for name in names if any(re.search(pattern, name) for pattern in patterns)} == names, kind
        for other in ("others", "orders_accepted", "my.orders.accepted", "orders.accepted.mine", "amq.direct"):
            assert not any(re.search(pattern, other) for pattern in patterns)
