"""deploy/kubernetes: there is another when one goes, and what is in queues stays."""

from stack.home.directory import ROOT
from tests.support.data.kustomized import BROKER, NAME, Objects, of_kind, peers, rendered, selects
from tests.support.data.kustomized_services import SETTINGS, replicas, services


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


def test_a_broker_may_go(objects: Objects) -> None:
    (cluster,) = of_kind(objects, "RabbitmqCluster").values()
    if objects is rendered("overlays/single"):
        assert cluster["spec"]["replicas"] == 1
        return
    assert cluster["spec"]["replicas"] == 3
    # As tests/cluster tries it.
    tried = (ROOT / "deploy" / "cluster" / "cluster.conf").read_text().splitlines()
    said = cluster["spec"]["rabbitmq"]["additionalConfig"].splitlines()
    for setting in ("cluster_partition_handling", "queue_leader_locator"):
        (line,) = (it for it in tried if it.startswith(setting))
        assert line in said
    # Which takes names that are looked up fast, and how fast they are there was not tried.
    assert not [line for line in said if line.startswith("net_ticktime")]
    assert cluster["spec"]["persistence"]["storage"]
    (apart,) = cluster["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["labelSelector"]["matchLabels"] == {NAME: cluster["metadata"]["name"]}
    assert apart["topologyKey"] in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")


def test_orders_in_queues_outlive_the_manifest(objects: Objects) -> None:
    assert {it["spec"]["deletionPolicy"] for it in of_kind(objects, "Vhost").values()} == {"retain"}


def test_no_number_of_replicas_is_said_in_two_places(objects: Objects) -> None:
    """An apply would undo what an autoscaler has done."""
    scaled = {*of_kind(objects, "HorizontalPodAutoscaler"), *of_kind(objects, "ScaledObject")}
    fixed = {name for name, it in of_kind(objects, "Deployment").items() if "replicas" in it["spec"]}
    assert (scaled | fixed, scaled & fixed) == (set(SETTINGS), set())
