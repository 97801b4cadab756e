"""A cluster of three nodes for all tests of the suite; PostgreSQL and Redis are the test run's.

./headrace test cluster                         needs root, for network namespaces
"""

import os
import random
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from pipeline.contract import topology
from tests.chaos.account.results import Row
from tests.chaos.scene.scene import Scene
from tests.cluster.nodes import Cluster, three_nodes
from tests.conftest import environment_of
from tests.support.brokers.broker import plain_channel
from tests.support.brokers.publishers import QUEUE as THINGS
from tests.support.services.deployment import deployed

_QUEUES = (
    topology.ORDERS_ACCEPTED_QUEUE,
    topology.ORDERS_CREATED_QUEUE,
    topology.ORDERS_CANCEL_REQUESTED_QUEUE,
    topology.ORDERS_DEAD_QUEUE,
)


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    """A directory that RabbitMQ's user can reach, wherever the checkout is."""
    directory = Path(f"/var/tmp/headrace-cluster-{os.getpid()}")
    directory.mkdir(mode=0o711)
    yield directory
    shutil.rmtree(directory)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def nodes(directory: Path) -> AsyncIterator[Cluster]:
    async with three_nodes(directory) as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(nodes: Cluster) -> AsyncIterator[Cluster]:
    """The cluster with all three nodes and no queues."""
    await nodes.restore()
    async with plain_channel(nodes.amqp_url) as channel:
        for queue in (*_QUEUES, THINGS):
            await channel.queue_delete(queue)
    yield nodes


@pytest_asyncio.fixture(loop_scope="session")
async def scene(
    request: pytest.FixtureRequest,
    cluster: Cluster,
    database_url: str,
    redis_url: str,
    order_id_key: str,
    tell: Callable[[str], None],
) -> AsyncIterator[Scene]:
    """Running services that know all three nodes. See tests.chaos.scene.scene."""
    environment = environment_of(database_url, cluster.amqp_url, redis_url, order_id_key)
    number, what = request.node.get_closest_marker("scenario").args
    seed = os.environ.get("HEADRACE_CHAOS_SEED") or str(random.randrange(10**6))

    def note(row: Row) -> None:
        tell(f"{row.line()}  (HEADRACE_CHAOS_SEED={seed})")

    async with deployed(environment) as deployment:
        scene = Scene(
            number,
            what,
            deployment,
            f"{seed} {request.node.name}",
            note,
            database_url,
            cluster.amqp_url,
            within_s=15,
        )
        yield scene
        scene.client.close()
