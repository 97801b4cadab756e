"""P5: a keyed order on a broker that has never had an order, and on one that may have."""

from dataclasses import replace
from urllib.parse import quote

import httpx
from redis.asyncio import Redis

from pipeline.contract import topology
from stack.servers.broker_users import RIGHTS, permissions
from tests.conftest import Servers
from tests.support.clients.keyed import keyed
from tests.support.services.accounts import ONE_AT_A_TIME, accounts
from tests.support.services.ingest import check_problem, ingesting, insert_product, vhost_of
from tests.support.services.processes import service_process


async def test_p5_on_a_new_installation_a_keyed_order_is_refused_for_its_own_reason(
    environment: dict[str, str], database_url: str
) -> None:
    """Although a worker consumes, which might hold an earlier order."""
    sold_out = await insert_product(database_url, qty=0)
    async with service_process("persist_worker", environment), ingesting(environment) as ingest:
        check_problem(await keyed(ingest, sold_out), 409, "out-of-stock")


async def test_p5_once_an_ingest_api_has_met_the_broker_an_emptied_redis_is_not_believed(
    environment: dict[str, str], database_url: str, redis: Redis
) -> None:
    sold_out = await insert_product(database_url, qty=0)
    async with service_process("persist_worker", environment):
        async with ingesting(environment):
            pass
        await redis.flushall()
        async with ingesting(environment) as ingest:
            check_problem(await keyed(ingest, sold_out), 503, "outcome-unknown")


@ONE_AT_A_TIME
async def test_p5_a_user_who_may_not_mark_the_broker_takes_orders_all_the_same(
    environment: dict[str, str], laptop: str, servers: Servers
) -> None:
    """A broker user that an operator made for an older release."""
    own, vhost = RIGHTS["ingest_api"], vhost_of(environment["AMQP_URL"])
    urls = environment["DATABASE_URL"], environment["AMQP_URL"], servers.rabbitmq_api, environment["REDIS_URL"]
    rights = replace(own, configure=tuple(it for it in own.configure if it != topology.INTAKE_BEGAN_EXCHANGE))
    async with (
        accounts(*urls) as made,
        service_process("persist_worker", environment),
        httpx.AsyncClient(base_url=servers.rabbitmq_api, timeout=30) as api,
    ):
        path = f"/api/permissions/{quote(vhost, safe='')}/ingest_api"
        (await api.put(path, json=permissions(rights))).raise_for_status()
        environment["AMQP_URL"] = made.brokers["ingest_api"]
        async with ingesting(environment) as ingest:
            assert (await keyed(ingest, laptop)).status_code == 202
            assert "may not mark" in ingest.service.log()
