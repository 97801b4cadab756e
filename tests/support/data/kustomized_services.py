"""Our services in deploy/kubernetes, to compare with the code."""

from collections.abc import Iterator
from typing import Any

from ingest_api.settings import IngestSettings
from persist_worker.settings import PersistSettings
from pipeline.process.settings import PipelineSettings
from product_api.settings import ProductSettings
from product_consumer.settings import ConsumerSettings
from tests.support.data.kustomized import DIRECTORY, Object, Objects, of_kind

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
    "REDIS_NAMESPACE": "headrace",
}


def settings_of(name: str) -> Any:
    return SETTINGS[name].model_validate(REQUIRED)


def services(objects: Objects) -> Iterator[tuple[str, Object, Object]]:
    """Each of the four services: name, pod, and the container that serves."""
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
    found |= {name: (it["spec"]["minReplicaCount"], it["spec"]["maxReplicaCount"]) for name, it in workers.items()}
    assert set(found) == set(SETTINGS)
    return found
