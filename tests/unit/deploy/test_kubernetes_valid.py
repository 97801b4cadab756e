"""deploy/kubernetes: what it renders is valid, for Kubernetes and for the operators."""

import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate

from tests.support.data.kustomized import Object, Objects, broker_pod, of_kind
from tests.support.data.kustomized_services import README

# Of the operators and of KEDA, which no schema of Kubernetes' own knows: what each definition requires of `spec`, and
# of all that it knows what we may use. `*`: anything below, which other tests look at. Read from kedacore/keda
# (config/crd, and the trigger's own names from pkg/scalers/rabbitmq_scaler.go), rabbitmq/cluster-operator and
# rabbitmq/messaging-topology-operator (config/crd, docs/examples).
_CLUSTER = "rabbitmqClusterReference.name"
CUSTOM: dict[tuple[str, str], tuple[set[str], set[str]]] = {
    ("keda.sh/v1alpha1", "ScaledObject"): (
        {"scaleTargetRef.name", "triggers[].type", "triggers[].metadata.queueName"},
        {
            "minReplicaCount",
            "maxReplicaCount",
            "advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.stabilizationWindowSeconds",
            "triggers[].authenticationRef.name",
            *(f"triggers[].metadata.{name}" for name in ("protocol", "host", "mode", "value", "excludeUnacknowledged")),
        },
    ),
    ("keda.sh/v1alpha1", "TriggerAuthentication"): (
        {f"secretTargetRef[].{name}" for name in ("parameter", "name", "key")},
        set(),
    ),
    ("rabbitmq.com/v1beta1", "RabbitmqCluster"): (
        {"replicas"},
        {
            "persistence.storage",
            "rabbitmq.additionalConfig",
            "resources.*",
            "affinity.*",
            "override.statefulSet.spec.template.spec.*",
        },
    ),
    ("rabbitmq.com/v1beta1", "Vhost"): ({"name", _CLUSTER}, {"defaultQueueType", "deletionPolicy"}),
    ("rabbitmq.com/v1beta1", "User"): ({_CLUSTER}, {"tags[]", "importCredentialsSecret.name"}),
    ("rabbitmq.com/v1beta1", "Permission"): (
        {"vhost", _CLUSTER, "permissions.configure", "permissions.write", "permissions.read"},
        {"userReference.name"},
    ),
}


def test_what_kubernetes_knows_is_valid(objects: Objects) -> None:
    known = [it for it in objects if (it["apiVersion"], it["kind"]) not in CUSTOM]
    assert len(known) > 10
    for it in known:
        valid(it)


def valid(it: Object) -> None:
    """For the oldest Kubernetes that the README allows, and for the latest."""
    oldest = re.search(r"Needs Kubernetes (1\.\d+) or later", README)
    assert oldest
    for version in (oldest[1], kubernetes_validate.latest_version()):
        kubernetes_validate.validate(it, version, strict=True)


def test_what_it_does_not_know_has_the_fields_of_its_definition(objects: Objects) -> None:
    found = [it for it in objects if (it["apiVersion"], it["kind"]) in CUSTOM]
    assert {(it["apiVersion"], it["kind"]) for it in found} == set(CUSTOM)
    for it in found:
        required, optional = CUSTOM[it["apiVersion"], it["kind"]]
        used = set(leaves(it["spec"]))
        assert required <= used, it["kind"]
        allowed = required | optional
        unknown = {path for path in used if path not in allowed and not is_below(path, allowed)}
        assert not unknown, it["kind"]


def leaves(part: Any, path: str = "") -> Iterator[str]:
    """The path of each value, as in `triggers[].metadata.value`."""
    if isinstance(part, dict):
        for key, it in part.items():
            yield from leaves(it, f"{path}.{key}" if path else key)
    elif isinstance(part, list):
        for it in part:
            yield from leaves(it, f"{path}[]")
    else:
        yield path


def is_below(path: str, allowed: set[str]) -> bool:
    return any(it.endswith("*") and path.startswith(it[:-1]) for it in allowed)


def test_what_the_operator_makes_of_our_broker_is_valid(objects: Objects) -> None:
    valid({"apiVersion": "v1", "kind": "Pod", **broker_pod(objects)})


def test_a_trigger_holds_text_alone(objects: Objects) -> None:
    """A number there is refused."""
    for it in of_kind(objects, "ScaledObject").values():
        assert {type(value) for trigger in it["spec"]["triggers"] for value in trigger["metadata"].values()} == {str}


def test_all_is_in_one_namespace(objects: Objects) -> None:
    assert {it["metadata"].get("namespace", "headrace") for it in objects} == {"headrace"}
