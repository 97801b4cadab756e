"""deploy/kubernetes: ports, settings, secrets, queues and limits are those of the code."""

from collections.abc import Iterator

from pipeline.contract import topology
from pipeline.process.version import project_version
from stack.servers.broker_users import RIGHTS, permissions
from tests.support.data.kustomized import BROKER, Objects, containers, of_kind, pods, rendered
from tests.support.data.kustomized_services import APIS, SETTINGS, required_of, services, settings_of

PRE_STOP_S = 5


def test_ports_are_those_of_the_settings(objects: Objects) -> None:
    for name, _, container in services(objects):
        settings, ports = settings_of(name), {it["name"]: it["containerPort"] for it in container["ports"]}
        # A worker has its health listener alone.
        wanted = {"http": settings.port, "health": settings.health_port} if name in APIS else {"health": settings.port}
        assert ports == wanted
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
        assert said.get(f"{name.replace('-', '_').upper()}_HEALTH_HOST") == ("0.0.0.0" if name in APIS else None)
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
        assert secrets["secretName"] == f"headrace-{name}", "accounts of its own"
        assert {it["path"] for it in secrets["items"]} == required_of(name)
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
        assert {container[probe]["httpGet"]["port"] for probe in asked} == {"health"}


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


def test_each_user_of_the_broker_may_do_what_the_table_says(objects: Objects) -> None:
    users, allowed = of_kind(objects, "User"), of_kind(objects, "Permission")
    assert set(users) == set(allowed) == {*(name.replace("_", "-") for name in RIGHTS), "headrace-keda"}
    for name, rights in RIGHTS.items():
        it = allowed[name.replace("_", "-")]["spec"]
        assert it["userReference"]["name"] == name.replace("_", "-")
        assert it["permissions"] == permissions(rights)
        assert "tags" not in users[name.replace("_", "-")]["spec"], "no administrator"


def test_no_queue_is_declared_twice(objects: Objects) -> None:
    """The services declare them, with arguments of their own."""
    assert not {"Queue", "Exchange", "Binding", "Policy"} & {it["kind"] for it in objects}
    assert all(it["spec"]["defaultQueueType"] == "quorum" for it in of_kind(objects, "Vhost").values())


def test_one_image_runs_everything(objects: Objects) -> None:
    (image,) = {it["image"] for _, pod in pods(objects) for it in containers(pod)}
    is_production = objects is rendered("overlays/production")
    assert image == (f"registry.example.com/headrace:{project_version()}" if is_production else "headrace:latest")
