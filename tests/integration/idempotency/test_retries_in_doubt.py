"""P5 and P1 after an unknown outcome, and after Redis has forgotten a key."""

import signal
from decimal import Decimal

import httpx
import pytest
from redis.asyncio import Redis

from ingest_api.idempotency.records import name_of
from pipeline.contract import topology
from pipeline.contract.product_events import ProductEvent
from tests.support.clients.keyed import KEY, keyed, ttl_s_above
from tests.support.data.redis_names import NAMESPACE
from tests.support.faults.faults import Proxy, proxy_to
from tests.support.services.ingest import Ingest, check_problem, ingesting, insert_product
from tests.support.services.processes import service_process
from tests.support.services.workers import connected, persist_worker, stored_orders
from tests.support.time.conditions import eventually

# ── after an unknown outcome


async def leave_in_doubt(ingest: Ingest, broker: Proxy, product_id: str) -> None:
    """A keyed order for two units, whose outcome is unknown."""
    # With a key: so it is known from then on that Redis has forgotten nothing.
    assert (await keyed(ingest, product_id, key="the-first")).status_code == 202
    broker.hold()
    check_problem(await keyed(ingest, product_id, 2), 503, "outcome-unknown")
    broker.come_back()


async def test_p5_after_an_unknown_outcome_the_key_takes_no_other_order(
    environment: dict[str, str], broker: Proxy, laptop: str
) -> None:
    async with ingesting(environment, confirm_timeout_s=1.5) as ingest:
        await leave_in_doubt(ingest, broker, laptop)
        check_problem(await keyed(ingest, laptop, 3), 422, "key-reused")

        async def accepted() -> bool:
            return (await keyed(ingest, laptop, 2)).status_code == 202

        assert await eventually(accepted)


async def test_p5_a_retry_of_an_unknown_outcome_is_the_same_order_although_it_would_be_refused_now(
    environment: dict[str, str], broker: Proxy, laptop: str
) -> None:
    """The first request may have been accepted. Its order is published again, and product_consumer decides."""
    async with ingesting(environment, confirm_timeout_s=1.5, catalogue_unknown_ttl_s=0.1) as ingest:
        await leave_in_doubt(ingest, broker, laptop)
        await ready(ingest)
        await ingest.tell(topology.PRODUCT_DELETED, ProductEvent(laptop, 2, Decimal(1), 5, deleted=True))
        await eventually(lambda: _is_refused(ingest, laptop, "unknown-product"))

        other = await insert_product(environment["DATABASE_URL"])
        check_problem(await keyed(ingest, other, 2), 422, "key-reused")
        again = await keyed(ingest, laptop, 2)
        assert (again.status_code, again.json()["unit_price"]) == (202, 1500)


async def test_p5_a_retry_of_an_unknown_outcome_is_not_refused_for_want_of_stock(
    environment: dict[str, str], broker: Proxy, laptop: str
) -> None:
    """The first request may have been accepted. If it was not, product_consumer decides."""
    async with ingesting(environment, confirm_timeout_s=1.5) as ingest:
        await leave_in_doubt(ingest, broker, laptop)
        await ready(ingest)
        await ingest.tell(topology.PRODUCT_SOLD_OUT, ProductEvent(laptop, 2, Decimal(1), 0))
        await eventually(lambda: _is_refused(ingest, laptop, "out-of-stock"))

        async def accepted() -> bool:
            answer = await keyed(ingest, laptop, 2)
            assert answer.status_code in (202, 503), answer.text
            return answer.status_code == 202

        assert await eventually(accepted)


async def ready(ingest: Ingest) -> None:
    """Whether ingest_api is connected to the broker and gets product events again."""

    async def is_ready() -> bool:
        return (await ingest.get("/readyz")).status_code == 200 and await ingest.part("product events") == "ok"

    await eventually(is_ready)


async def _is_refused(ingest: Ingest, product_id: str, name: str) -> bool:
    answer = await ingest.order(product_id)
    return answer.status_code != 202 and answer.json()["type"].endswith(name)


async def test_p5_a_retry_of_an_unknown_outcome_is_one_row(
    environment: dict[str, str], broker: Proxy, laptop: str
) -> None:
    async with ingesting(environment, confirm_timeout_s=1.5) as ingest:
        await leave_in_doubt(ingest, broker, laptop)

        async def accepted() -> httpx.Response | None:
            answer = await keyed(ingest, laptop, 2)
            return answer if answer.status_code == 202 else None

        order_id = (await eventually(accepted)).json()["id"]
    async with persist_worker(environment) as worker, connected(environment["DATABASE_URL"]) as connection:
        while order_id not in await stored_orders(connection):
            await worker.run_once()
        assert sorted((await stored_orders(connection)).values()) == [(laptop, 1), (laptop, 2)]


# ── after Redis has forgotten


@pytest.mark.parametrize("how", ["sold out", "deleted"])
async def test_p5_a_retry_of_a_stored_order_that_redis_forgot_is_that_order_although_it_would_be_refused_now(
    environment: dict[str, str], laptop: str, redis: Redis, how: str
) -> None:
    # Only the catalogue believes that the product is gone. PostgreSQL still has it, and is not asked meanwhile.
    async with ingesting(environment, catalogue_unknown_ttl_s=60) as ingest:
        first = await keyed(ingest, laptop, 2)
        gone = ProductEvent(laptop, 2, Decimal(1), 0, deleted=how == "deleted")
        await ingest.tell(topology.PRODUCT_DELETED if gone.deleted else topology.PRODUCT_SOLD_OUT, gone)
        await eventually(lambda: _is_refused(ingest, laptop, gone_as(how)))
        # Every look that was not refused was an order too. While one is in the queue, no key can be known.
        other = await insert_product(environment["DATABASE_URL"])
        behind_them: str = (await ingest.order(other)).json()["id"]
        async with persist_worker(environment) as worker, connected(environment["DATABASE_URL"]) as connection:
            while behind_them not in await stored_orders(connection):
                await worker.run_once()
        await redis.flushall()

        again = await keyed(ingest, laptop, 2)
        assert (again.status_code, again.content) == (202, first.content)

        async def is_known() -> bool:  # once no process can still publish an order that Redis forgot
            return (await keyed(ingest, laptop, 2, key="another")).status_code != 503

        await eventually(is_known, timeout_s=20)
        check_problem(await keyed(ingest, laptop, 2, key="another"), 422 if gone.deleted else 409, gone_as(how))


def gone_as(how: str) -> str:
    return {"sold out": "out-of-stock", "deleted": "unknown-product"}[how]


async def test_p5_nobody_is_told_that_an_order_was_not_accepted_while_it_cannot_be_known(
    environment: dict[str, str], laptop: str, redis: Redis
) -> None:
    async with proxy_to(environment["DATABASE_URL"]) as database:
        environment["DATABASE_URL"] = database.url(environment["DATABASE_URL"])
        async with ingesting(environment) as ingest, ingesting(environment) as other:
            first = await keyed(ingest, laptop)
            assert first.status_code == 202
            assert (await other.order(laptop)).status_code == 202  # so that it gets the product's event
            await ingest.tell(topology.PRODUCT_SOLD_OUT, ProductEvent(laptop, 2, Decimal(1), 0))
            for it in (ingest, other):
                await eventually(lambda it=it: _is_refused(it, laptop, "out-of-stock"))  # type: ignore[misc]
            ingest.service.process.send_signal(signal.SIGSTOP)  # otherwise it would restore its claims
            await redis.flushall()
            database.go_away()
            check_problem(await keyed(other, laptop), 503, "store-unavailable")
            ingest.service.process.send_signal(signal.SIGCONT)
            assert (await keyed(ingest, laptop)).content == first.content


async def test_p1_another_order_with_a_key_that_nobody_remembers_is_an_order_of_its_own(
    environment: dict[str, str], laptop: str, redis: Redis
) -> None:
    """It was answered 202, so the first order's primary key must not swallow it."""
    async with service_process("persist_worker", environment):
        async with ingesting(environment) as ingest:
            first = (await keyed(ingest, laptop, 2)).json()
            await eventually(lambda: ttl_s_above(redis, name_of(NAMESPACE, "", KEY), 60))
            await redis.flushall()
            check_problem(await keyed(ingest, laptop, 3), 422, "key-reused")  # the process remembers
        await redis.flushall()
        async with ingesting(environment) as ingest:
            second = (await keyed(ingest, laptop, 3)).json()
        async with connected(environment["DATABASE_URL"]) as connection:

            async def are_stored() -> bool:
                expected = {first["id"]: (laptop, 2), second["id"]: (laptop, 3)}
                return await stored_orders(connection) == expected

            await eventually(are_stored)
