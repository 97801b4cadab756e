"""deploy/kubernetes: what it renders is valid, holds no secret, is confined, and agrees with the code."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from ingest_api.settings import IngestSettings
from persist_worker.settings import PersistSettings
from pipeline import topology
from pipeline.settings import PipelineSettings, load
from product_api.settings import ProductSettings
from product_consumer.settings import ConsumerSettings
from stack.home import ROOT
from tests.kustomized import (
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

README = (DIRECTORY / "README.md").read_text()
SETTINGS: dict[str, type[PipelineSettings]] = {
    "ingest-api": IngestSettings,
    "product-api": ProductSettings,
    "persist-worker": PersistSettings,
    "product-consumer": ConsumerSettings,
}
APIS = ("ingest-api", "product-api")
REQUIRED = {
    "DATABASE_URL": "postgresql://a/b",
    "AMQP_URL": "amqp://a/",
    "REDIS_URL": "redis://a/0",
    "ORDER_ID_KEY": "6b" * 32,
}
PRE_STOP_S = 5

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


@pytest.fixture(params=VARIANTS)
def objects(request: pytest.FixtureRequest) -> Objects:
    return rendered(request.param)


def settings_of(name: str) -> Any:
    return SETTINGS[name].model_validate(REQUIRED)


def services(objects: Objects) -> Iterator[tuple[str, Object, Object]]:
    """Each of the four: name, what its pods are, and the container that serves."""
    found = of_kind(objects, "Deployment")
    assert set(found) == set(SETTINGS)
    for name, it in found.items():
        spec = it["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        yield name, spec, container


# ── valid


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


# ── safe


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
        *product(SETTINGS, ["outside"], [5432, 6379]),
        ("migrate", "outside", 5432),
        *product(SETTINGS, [BROKER], [5672]),
        *product([BROKER], [BROKER], [4369, 25672, 35672, 35682]),
        *product(["keda", "rabbitmq-system"], [BROKER], [15672]),
        ("monitoring", BROKER, 15692),
        *product(ours, ["kube-system"], [53]),
        *(("monitoring", name, settings_of(name).port) for name in ("persist-worker", "product-consumer")),
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
    assert "tags" not in users["headrace"]["spec"]
    (allowed,) = (
        it["spec"] for it in of_kind(objects, "Permission").values() if it["spec"]["userReference"]["name"] == keda
    )
    assert set(allowed["permissions"].values()) == {"^$"}
    assert allowed["vhost"] == "headrace"


def test_the_services_may_do_at_the_broker_what_they_do_and_nothing_else(objects: Objects) -> None:
    permission = of_kind(objects, "Permission")["headrace"]["spec"]
    for pattern in permission["permissions"].values():
        for name in (
            *(topology.ORDERS_EXCHANGE, topology.PRODUCTS_EXCHANGE, topology.DEAD_EXCHANGE),
            *(topology.ORDERS_ACCEPTED_QUEUE, topology.ORDERS_CREATED_QUEUE, topology.ORDERS_DEAD_QUEUE),
            "amq.gen-abc",
        ):
            assert re.search(pattern, name), name
        for other in ("others", "orders_accepted", "my.orders.accepted", "orders.accepted.mine", "amq.direct"):
            assert not re.search(pattern, other)


# ── as the code has it


def test_ports_are_those_of_the_settings(objects: Objects) -> None:
    for name, _, container in services(objects):
        assert container["ports"] == [{"name": "http", "containerPort": settings_of(name).port}]
    assert set(of_kind(objects, "Service")) == set(APIS)
    for name, service in of_kind(objects, "Service").items():
        assert [(it["port"], it["targetPort"]) for it in service["spec"]["ports"]] == [(settings_of(name).port, "http")]


def test_every_variable_is_a_setting(objects: Objects) -> None:
    for name, _, container in services(objects):
        assert container["args"] == [name.replace("-", "_")]
        assert {it["name"] for it in container["env"]} <= {"SECRETS_DIRECTORY", *names_of(name)}
    for _, pod in pods(objects):
        for it in pod["spec"].get("initContainers", []):
            assert {variable["name"] for variable in it["env"]} == {"SECRETS_DIRECTORY"}


def names_of(name: str) -> Iterator[str]:
    prefix = SETTINGS[name].model_config["env_prefix"]
    for field, info in SETTINGS[name].model_fields.items():
        yield str(info.validation_alias or f"{prefix}{field}".upper())


def test_each_service_listens_where_others_reach_it_and_an_api_has_keys_then(objects: Objects) -> None:
    for name, spec, container in services(objects):
        said = {it["name"]: it["value"] for it in container["env"]}
        assert said[f"{name.replace('-', '_').upper()}_HOST"] == "0.0.0.0"
        assert ("API_KEYS_FILE" in said) == (name in APIS)
        if name in APIS:
            (volume,) = [it for it in spec["volumes"] if it["name"] == "api-keys"]
            (mount,) = [it for it in container["volumeMounts"] if it["name"] == "api-keys"]
            assert volume["secret"]["secretName"] == "headrace-api-keys"
            assert said["API_KEYS_FILE"] == f"{mount['mountPath']}/api-keys.json"


def test_no_service_is_told_of_the_others_by_the_environment(objects: Objects) -> None:
    """A Service `ingest-api` would set INGEST_API_PORT=tcp://10.0.0.1:8080, and nothing would start."""
    for _, pod in pods(objects):
        assert pod["spec"]["enableServiceLinks"] is False


def test_each_pod_is_given_the_secrets_that_it_requires(objects: Objects) -> None:
    for name, pod in pods(objects):
        (secrets,) = [it["secret"] for it in pod["spec"]["volumes"] if it["name"] == "secrets"]
        assert secrets["secretName"] == "headrace"
        assert {it["path"] for it in secrets["items"]} == ({"DATABASE_URL"} if name == "migrate" else set(REQUIRED))
        for container in containers(pod):
            said = {it["name"]: it["value"] for it in container["env"]}
            assert {"name": "secrets", "mountPath": said["SECRETS_DIRECTORY"], "readOnly": True} in container[
                "volumeMounts"
            ]


def test_what_is_in_hand_is_finished_before_the_kill(objects: Objects) -> None:
    for name, spec, container in services(objects):
        # Of the workers nobody asks anything, so nobody has to hear first that they go.
        lifecycle = {"preStop": {"sleep": {"seconds": PRE_STOP_S}}} if name in APIS else None
        assert container.get("lifecycle") == lifecycle, name
        slept = PRE_STOP_S if lifecycle else 0
        # 2 s to hang up on each of two servers that are silent.
        assert spec["terminationGracePeriodSeconds"] > slept + settings_of(name).stop_grace_s + 4, name


def test_alive_asks_the_process_alone_and_ready_asks_what_it_needs(objects: Objects) -> None:
    for _, _, container in services(objects):
        asked = {probe: container[probe]["httpGet"]["path"] for probe in container if probe.endswith("Probe")}
        assert asked == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}


def test_workers_grow_with_their_own_queue_and_not_by_what_one_of_them_holds(objects: Objects) -> None:
    queues = {
        "persist-worker": topology.ORDERS_ACCEPTED_QUEUE,
        "product-consumer": topology.ORDERS_CREATED_QUEUE,
    }
    scaled = of_kind(objects, "ScaledObject")
    assert set(scaled) == set(queues)
    (vhost,) = of_kind(objects, "Vhost").values()
    for name, it in scaled.items():
        (trigger,) = it["spec"]["triggers"]
        assert trigger["type"] == "rabbitmq"
        assert it["spec"]["scaleTargetRef"]["name"] == name
        said = trigger["metadata"]
        assert (said["queueName"], said["mode"]) == (queues[name], "QueueLength")
        # Over AMQP it would count those that are ready, and not those that a worker holds.
        assert said["protocol"] == "http"
        assert said["host"] == f"http://{BROKER}.headrace.svc:15672/{vhost['spec']['name']}"
        assert said.get("excludeUnacknowledged", "false") == "false"
        assert int(said["value"]) > settings_of(name).prefetch


def test_what_is_named_is_there(objects: Objects) -> None:
    for it in objects:
        spec = it.get("spec", {})
        if target := spec.get("scaleTargetRef"):
            assert target["name"] in of_kind(objects, target.get("kind", "Deployment"))
        for trigger in spec.get("triggers", []):
            assert trigger["authenticationRef"]["name"] in of_kind(objects, "TriggerAuthentication")
        if cluster := spec.get("rabbitmqClusterReference"):
            assert cluster["name"] in of_kind(objects, "RabbitmqCluster")
        if user := spec.get("userReference"):
            assert user["name"] in of_kind(objects, "User")
    for _, pod in pods(objects):
        assert pod["spec"]["serviceAccountName"] in of_kind(objects, "ServiceAccount")


def test_no_queue_is_declared_twice(objects: Objects) -> None:
    """The services declare them, with arguments of their own."""
    assert not {"Queue", "Exchange", "Binding", "Policy"} & {it["kind"] for it in objects}
    assert all(it["spec"]["defaultQueueType"] == "quorum" for it in of_kind(objects, "Vhost").values())


def test_one_image_runs_everything(objects: Objects) -> None:
    (image,) = {it["image"] for _, pod in pods(objects) for it in containers(pod)}
    is_production = objects is rendered("overlays/production")
    assert image == ("registry.example.com/headrace:0.1.0" if is_production else "headrace:latest")


# ── there when one goes


def test_what_selects_finds_its_pods_and_no_others(objects: Objects) -> None:
    labels = {name: peer.labels for name, peer in peers(objects).items()}
    for kind in ("Deployment", "PodDisruptionBudget", "Service"):
        for name, it in of_kind(objects, kind).items():
            selector = {"matchLabels": it["spec"]["selector"]} if kind == "Service" else it["spec"]["selector"]
            assert [it for it in labels if selects(selector, labels[it])] == [name], kind


def test_the_pods_of_a_service_are_spread_among_themselves(objects: Objects) -> None:
    expected = ["kubernetes.io/hostname"]
    if objects is rendered("overlays/production"):
        expected.append("topology.kubernetes.io/zone")
    for name, spec, _ in services(objects):
        spread = spec["topologySpreadConstraints"]
        assert [it["topologyKey"] for it in spread] == expected
        for it in spread:
            assert selects(it["labelSelector"], peers(objects)[name].labels)
            # A key in both is refused.
            assert not {*it["matchLabelKeys"]} & {*it["labelSelector"]["matchLabels"]}
            assert NAME in it["matchLabelKeys"]


def test_an_eviction_leaves_at_least_one(objects: Objects) -> None:
    budgets = of_kind(objects, "PodDisruptionBudget")
    assert set(budgets) == {*SETTINGS, BROKER}
    (cluster,) = of_kind(objects, "RabbitmqCluster").values()
    fewest = {name: least for name, (least, _) in replicas(objects).items()} | {BROKER: cluster["spec"]["replicas"]}
    for name, it in budgets.items():
        assert it["spec"]["maxUnavailable"] == 1
        assert fewest[name] > 1 or objects is rendered("overlays/single"), name
        # Of the broker one that is not ready counts: with two of three the next one must not go.
        assert ("unhealthyPodEvictionPolicy" in it["spec"]) == (name != BROKER)


def replicas(objects: Objects) -> dict[str, tuple[int, int]]:
    """At least, and at most, of each service."""
    apis, workers = of_kind(objects, "HorizontalPodAutoscaler"), of_kind(objects, "ScaledObject")
    found = {name: (it["spec"]["minReplicas"], it["spec"]["maxReplicas"]) for name, it in apis.items()}
    found |= {name: (it["spec"]["minReplicaCount"], it["spec"]["maxReplicaCount"]) for name, it in workers.items()}
    assert set(found) == set(SETTINGS)
    return found


def test_a_broker_may_go(objects: Objects) -> None:
    (cluster,) = of_kind(objects, "RabbitmqCluster").values()
    if objects is rendered("overlays/single"):
        assert cluster["spec"]["replicas"] == 1
        return
    assert cluster["spec"]["replicas"] == 3
    # As tests/cluster tries it.
    tried = (ROOT / "deploy" / "cluster" / "cluster.conf").read_text().splitlines()
    said = cluster["spec"]["rabbitmq"]["additionalConfig"].splitlines()
    for setting in ("cluster_partition_handling", "net_ticktime", "queue_leader_locator"):
        (line,) = (it for it in tried if it.startswith(setting))
        assert line in said
    assert cluster["spec"]["persistence"]["storage"]
    (apart,) = cluster["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["labelSelector"]["matchLabels"] == {NAME: cluster["metadata"]["name"]}
    assert apart["topologyKey"] in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")


def test_orders_in_queues_outlive_the_manifest(objects: Objects) -> None:
    assert {it["spec"]["deletionPolicy"] for it in of_kind(objects, "Vhost").values()} == {"retain"}


def test_no_number_of_replicas_is_said_in_two_places(objects: Objects) -> None:
    """An apply would undo what an autoscaler has done."""
    assert all("replicas" not in it["spec"] for it in of_kind(objects, "Deployment").values())


# ── migrated first


def test_the_migration_removes_itself_for_the_next_one(objects: Objects) -> None:
    (job,) = of_kind(objects, "Job").values()
    assert job["spec"]["ttlSecondsAfterFinished"] > 0
    assert [it["args"] for it in containers(job["spec"]["template"])] == [["migrations"]]


def test_no_service_starts_before_it(objects: Objects) -> None:
    for name, spec, _ in services(objects):
        (waiting,) = spec["initContainers"]
        assert waiting["args"] == ["migrations", "--wait"]
        assert ("command" in waiting) == (name == "ingest-api")


@pytest.mark.parametrize(("python", "code"), [("exit 0", 0), ("exit 1", 1), ("exit 78", 1), ("exec sleep 60", 0)])
def test_an_ingest_api_starts_although_the_database_is_away(tmp_path: Path, python: str, code: int) -> None:
    """And not if the wait ends with an error: another's schema, or settings that are wrong."""
    (waiting,) = of_kind(rendered("base"), "Deployment")["ingest-api"]["spec"]["template"]["spec"]["initContainers"]
    command = [word.replace("timeout 30 ", "timeout 0.2 ") for word in waiting["command"]]
    assert command != waiting["command"]
    executable(tmp_path / "python", f'[ "$*" = "-m migrations --wait" ] || exit 99\n{python}')
    done = subprocess.run([*command, *waiting["args"]], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert done.returncode == code


def executable(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


# ── the README


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, dict[str, str]]:
    """What its commands make: the values of each Secret, by its name."""
    kubectl = Path(sys.executable).with_name("kubectl")
    executable(
        tmp_path / "kubectl", f'[ "$3" = create ] || exit 0\nexec {kubectl} "$@" --dry-run=client -o json >> made'
    )
    executable(tmp_path / "openssl", 'head -c "$3" /dev/urandom | od -An -v -tx1 | tr -d " \\n"; echo')
    executable(tmp_path / "headrace", 'mkdir -p "$HEADRACE_HOME"; echo "{}" > "$HEADRACE_HOME/api-keys.json"')
    steps = README[README.index("**2. Secrets.**") : README.index("**4. All of it**")]
    script = "set -eu\n" + "\n".join(line[4:] for line in steps.splitlines() if line.startswith("    "))
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["sh", "-c", script], cwd=tmp_path, env={"PATH": path, "HOME": str(tmp_path)}, check=True)
    assert sorted(it.name for it in tmp_path.iterdir()) == [
        "headrace",
        "keys-of-the-cluster",
        "kubectl",
        "made",
        "openssl",
    ]
    return dict(made((tmp_path / "made").read_text()))


def made(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        it, end = decoder.raw_decode(text)
        assert (it["kind"], it["metadata"]["namespace"]) == ("Secret", "headrace")
        yield it["metadata"]["name"], {name: base64.b64decode(value).decode() for name, value in it["data"].items()}
        text = text[end:]


def test_the_secrets_that_it_makes_are_those_that_are_used(
    objects: Objects, secrets: dict[str, dict[str, str]]
) -> None:
    used: dict[str, set[str]] = {}
    for _, pod in pods(objects):
        for volume in pod["spec"]["volumes"]:
            if "secret" in volume:
                keys = {it["key"] for it in volume["secret"].get("items", [{"key": "api-keys.json"}])}
                used.setdefault(volume["secret"]["secretName"], set()).update(keys)
    for it in of_kind(objects, "User").values():
        used[it["spec"]["importCredentialsSecret"]["name"]] = {"username", "password"}
    for it in of_kind(objects, "TriggerAuthentication").values():
        assert all(key["key"] in used[key["name"]] for key in it["spec"]["secretTargetRef"])
    assert {name: set(values) for name, values in secrets.items()} == used


def test_a_service_starts_with_them_and_is_the_user_that_the_broker_knows(
    secrets: dict[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "mounted"
    directory.mkdir()
    for name, value in secrets["headrace"].items():
        (directory / name).write_text(value)
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SECRETS_DIRECTORY", str(directory))
    user = secrets["headrace-rabbitmq-user"]
    login = f"amqp://{user['username']}:{user['password']}"
    objects = rendered("overlays/production")
    (cluster,) = of_kind(objects, "RabbitmqCluster").values()
    (vhost,) = of_kind(objects, "Vhost").values()
    assert [load(it).amqp_urls for it in SETTINGS.values()] == 4 * [
        [
            f"{login}@{BROKER}-server-{node}.{BROKER}-nodes.headrace.svc:5672/{vhost['spec']['name']}"
            for node in range(cluster["spec"]["replicas"])
        ]
    ]
    assert user["password"] != secrets["headrace-rabbitmq-keda"]["password"]


@pytest.mark.parametrize("variant", ["single", "production"])
def test_it_says_how_many_connections_the_database_must_allow(variant: str) -> None:
    ingest, products = settings_of("ingest-api"), settings_of("product-api")
    each = {
        # One more hears of verdicts.
        "ingest-api": ingest.database_pool_size + 1,
        "product-api": products.database_readers + products.database_writers,
        # One more parks what the broker has given up on.
        "persist-worker": 2,
        "product-consumer": 1,
    }
    most = {name: most for name, (_, most) in replicas(rendered(f"overlays/{variant}")).items()}
    assert f"| `{variant}` | {sum((most[name] + 1) * count for name, count in each.items())} |" in README
