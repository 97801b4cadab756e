"""Our services in deploy/kubernetes, to compare with the code."""

from collections.abc import Iterator
from typing import Any

from event_relay.settings import RelaySettings
from ingest_api.settings import IngestSettings
from persist_worker.settings import PersistSettings
from pipeline.process.settings import ProcessSettings
from product_api.settings import ProductSettings
from product_consumer.settings import ConsumerSettings
from tests.support.data.kustomized import DIRECTORY, Object, Objects, of_kind

README = (DIRECTORY / "README.md").read_text()
SETTINGS: dict[str, type[ProcessSettings]] = {
    "ingest-api": IngestSettings,
    "product-api": ProductSettings,
    "persist-worker": PersistSettings,
    "product-consumer": ConsumerSettings,
    "event-relay": RelaySettings,
}
APIS = ("ingest-api", "product-api")
REQUIRED = {
    "DATABASE_URL": "postgresql://a/b",
    "AMQP_URL": "amqp://a/",
    "REDIS_URL": "redis://a/0",
    "ORDER_ID_KEY": "6b" * 32,
    "REDIS_NAMESPACE": "headrace",
}
# event_relay mints no ids and uses no Redis.
USE_REDIS = tuple(name for name in SETTINGS if name != "event-relay")


def required_of(name: str) -> set[str]:
    """The secrets of a pod."""
    if name in USE_REDIS:
        return set(REQUIRED)
    return {"DATABASE_URL"} if name == "migrate" else {"DATABASE_URL", "AMQP_URL"}


def settings_of(name: str) -> Any:
    return SETTINGS[name].model_validate(REQUIRED)


def services(objects: Objects) -> Iterator[tuple[str, Object, Object]]:
    """Each of the services: name, pod, and the container that serves."""
    found = of_kind(objects, "Deployment")
    assert set(found) == set(SETTINGS)
    for name, it in found.items():
        spec = it["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        yield name, spec, container


def replicas(objects: Objects) -> dict[str, tuple[int, int]]:
    """Service → (minimum, maximum) number of replicas."""
    apis, workers = of_kind(objects, "HorizontalPodAutoscaler"), of_kind(objects, "ScaledObject")
    found = {name: (it["spec"]["minReplicas"], it["spec"]["maxReplicas"]) for name, it in apis.items()}
    fixed = of_kind(objects, "Deployment").items()
    found |= {name: (it["spec"]["replicas"],) * 2 for name, it in fixed if "replicas" in it["spec"]}
    found |= {name: (it["spec"]["minReplicaCount"], it["spec"]["maxReplicaCount"]) for name, it in workers.items()}
    assert set(found) == set(SETTINGS)
    return found
