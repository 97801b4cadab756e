"""The objects that kubectl renders from deploy/kubernetes, and what their NetworkPolicies allow."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from stack.home.directory import ROOT

DIRECTORY = ROOT / "deploy" / "kubernetes"
VARIANTS = ("base", "overlays/single", "overlays/production")
NAME = "app.kubernetes.io/name"
BROKER = "headrace-rabbitmq"

Object = dict[str, Any]
Objects = tuple[Object, ...]


@cache
def rendered_text(variant: str) -> str:
    kubectl = Path(sys.executable).with_name("kubectl")
    done = subprocess.run([kubectl, "kustomize", DIRECTORY / variant], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def rendered(variant: str) -> Objects:
    return tuple(yaml.safe_load_all(rendered_text(variant)))


def of_kind(objects: Objects, kind: str) -> dict[str, Object]:
    return {it["metadata"]["name"]: it for it in objects if it["kind"] == kind}


def pods(objects: Objects) -> Iterator[tuple[str, Object]]:
    """(name, pod template) of each Deployment and Job."""
    for kind in ("Deployment", "Job"):
        for name, it in of_kind(objects, kind).items():
            yield name, it["spec"]["template"]


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def broker_pod(objects: Objects) -> Object:
    """What we override in the pods that the RabbitMQ Cluster Operator creates."""
    (cluster,) = of_kind(objects, "RabbitmqCluster").values()
    said = cluster["spec"]["override"]["statefulSet"]["spec"]["template"]["spec"]
    broker = {**said["containers"][0], "resources": cluster["spec"]["resources"]}
    spec = {**said, "containers": [broker], "affinity": cluster["spec"].get("affinity", {})}
    return {"metadata": {"labels": {NAME: cluster["metadata"]["name"]}}, "spec": spec}


# ── who may talk to whom


@dataclass(frozen=True)
class Peer:
    """A source or a target of traffic. `namespace` None: outside the cluster."""

    namespace: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)


def peers(objects: Objects) -> dict[str, Peer]:
    """Name → pod, for all pods in our namespace."""
    found = {BROKER: Peer("headrace", {NAME: BROKER})}
    for name, pod in pods(objects):
        named = {port["name"]: port["containerPort"] for it in containers(pod) for port in it.get("ports", [])}
        found[name] = Peer("headrace", pod["metadata"]["labels"], named)
    return found


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a selector matches, for the features we use. An empty selector matches all."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    for it in selector.get("matchExpressions", []):
        assert it["operator"] == "In"
        if labels.get(it["key"]) not in it["values"]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def may_talk(objects: Objects, source: Peer, target: Peer, port: int) -> bool:
    """Whether both ends allow the traffic. A pod that no policy selects is free; any other needs a rule."""
    out = _allows(objects, "Egress", source, target, port, target)
    return out and _allows(objects, "Ingress", target, source, port, target)


def _allows(objects: Objects, direction: str, whose: Peer, other: Peer, port: int, target: Peer) -> bool:
    if whose.namespace != "headrace":
        return True  # outside our namespace, so not ours to restrict
    specs = [it["spec"] for it in of_kind(objects, "NetworkPolicy").values()]
    mine = [it for it in specs if direction in it["policyTypes"] and selects(it["podSelector"], whose.labels)]
    rules = [rule for it in mine for rule in it.get(direction.lower(), [])]
    side = "to" if direction == "Egress" else "from"
    matching = (
        any(_is_peer(it, other) for it in rule.get(side, [{}]))
        and any(_is_port(it, port, target) for it in rule["ports"])
        for rule in rules
    )
    return not mine or any(matching)


def _is_peer(rule: Object, other: Peer) -> bool:
    assert set(rule) <= {"podSelector", "namespaceSelector"}
    if not rule:
        return True
    if "namespaceSelector" in rule:
        namespace = {"kubernetes.io/metadata.name": other.namespace or ""}
        return selects(rule["namespaceSelector"], namespace) and selects(rule.get("podSelector", {}), other.labels)
    return other.namespace == "headrace" and selects(rule["podSelector"], other.labels)


def _is_port(rule: Object, port: int, target: Peer) -> bool:
    # No pod of ours names a port 0.
    first: int = target.ports.get(rule["port"], 0) if isinstance(rule["port"], str) else rule["port"]
    last: int = rule.get("endPort", first)
    return first <= port <= last
