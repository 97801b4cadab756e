"""The scenarios' faults, for mixing at random. Each function returns when its fault is over."""

import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

import httpx

from pipeline.contract import topology
from tests.chaos.faults.failpoints import FAILPOINTS
from tests.chaos.scene.scene import BreakableScene
from tests.support.brokers.broker import plain_channel
from tests.support.services.deployment import SERVICES
from tests.support.services.workers import locked, redis_client
from tests.support.time.conditions import eventually

Fault = Callable[[BreakableScene], Awaitable[None]]


# ── what breaks around the services


async def redis_killed(scene: BreakableScene) -> None:
    await scene.servers.kill("redis")


async def redis_emptied(scene: BreakableScene) -> None:
    async with redis_client(scene.servers.urls.redis_url) as redis:
        await redis.flushdb()


async def broker_killed(scene: BreakableScene) -> None:
    await scene.servers.kill("rabbitmq")


async def postgres_away(scene: BreakableScene) -> None:
    await scene.servers.stop("postgres", signal.SIGQUIT)
    await scene.goes_on(scene.rng.uniform(0, 5))
    await scene.servers.start("postgres")


async def orders_locked(scene: BreakableScene) -> None:
    async with locked(scene.database_url, scene.rng.choice(["orders", "stock_ledger", "products"])):
        await scene.goes_on(scene.rng.uniform(0, 5))


async def binding_removed(scene: BreakableScene) -> None:
    queue, key = scene.rng.choice(
        [
            (topology.ORDERS_ACCEPTED_QUEUE, topology.ORDER_ACCEPTED),
            (topology.ORDERS_CREATED_QUEUE, topology.ORDER_CREATED),
        ]
    )
    async with plain_channel(scene.amqp_url) as channel:
        await (await channel.get_queue(queue)).unbind(topology.ORDERS_EXCHANGE, key)


async def service_frozen(scene: BreakableScene) -> None:
    process = scene.deployment.services[scene.rng.choice(SERVICES)].process
    process.send_signal(signal.SIGSTOP)
    await scene.goes_on(scene.rng.uniform(0, 4))
    process.send_signal(signal.SIGCONT)


# ── what services die of


async def service_killed(scene: BreakableScene) -> None:
    await scene.kill(scene.rng.choice(SERVICES))


async def service_replaced(scene: BreakableScene) -> None:
    name = scene.rng.choice(SERVICES)
    assert await scene.deployment.stop(name) == 0, scene.deployment.services[name].log()[-2000:]
    await scene.deployment.start(name)


async def service_killed_at_a_point(scene: BreakableScene) -> None:
    point = scene.rng.choice([it for it in FAILPOINTS if it.service in scene.deployment.services])
    nth = scene.rng.randint(1, 20)
    await scene.deployment.stop(point.service)
    await scene.fails_at(point.service, f"{point.name}:kill:{nth}", ready=None)
    service = scene.deployment.services[point.service]

    async def is_dead() -> bool:
        if point.service == "product_api" and service.process.returncode is None:
            with suppress(httpx.HTTPError):  # it dies, or is not up yet
                await scene.deployment.create_product(qty=1)  # the load changes no product, so it would never get there
        return service.process.returncode is not None

    await eventually(is_dead, 60)
    assert service.process.returncode == -signal.SIGKILL, service.log()[-2000:]
    await scene.deployment.start(point.service)


AROUND: tuple[Fault, ...] = (
    redis_killed,
    redis_emptied,
    broker_killed,
    postgres_away,
    orders_locked,
    binding_removed,
    service_frozen,
)
DEADLY: tuple[Fault, ...] = (service_killed, service_replaced, service_killed_at_a_point)
