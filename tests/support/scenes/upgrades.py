"""Accounts for orders of two releases: nothing lost, nothing duplicated, no stock that moved without a verdict."""

from collections.abc import Iterable

from pipeline.contract import topology
from pipeline.contract.orders import Basket
from proof.accounting_sql import drain
from proof.audit_sql import Counts, audit
from proof.offenders import Offender
from tests.support.brokers.broker import plain_channel, send
from tests.support.data.orders import body_of
from tests.support.services.deployment import Deployment
from tests.support.time.conditions import eventually


async def publish(deployment: Deployment, *baskets: Basket) -> None:
    """Publish baskets in one message, as ingest_api does."""
    async with plain_channel(deployment.environment["AMQP_URL"]) as channel:
        await topology.declare_accepted(channel)
        headers = {"schema": 2, "orders": len(baskets)}
        await send(channel, topology.ORDERS_EXCHANGE, topology.ORDER_ACCEPTED, body_of(*baskets), headers=headers)


async def account_for(deployment: Deployment, ids: Iterable[str]) -> Counts:
    """Wait until all these orders are decided. Assert that they are all that there are, each stored and decided once,
    and that `verify` finds nothing wrong.
    """
    expected = list(ids)
    assert await drain(deployment.connection, expected, lambda _: None) == [], "undecided"
    found: list[Offender] = []
    counts = await audit(deployment.connection, 0, found.append)
    assert found == []
    assert (counts.orders, counts.processed + counts.failed) == (len(expected), len(expected)), "lost, or duplicated"
    return counts


async def holds_for(deployment: Deployment, worker: str, error: str) -> None:
    """Wait until a worker is not ready, and its log names this error of PostgreSQL."""

    async def is_held() -> bool:
        return not await deployment.is_ready(worker) and error in deployment.services[worker].log()

    await eventually(is_held)


async def upgrade(deployment: Deployment, *names: str) -> list[int]:
    """Replace services by those of this checkout, one after the other. Returns their exit codes."""
    codes = []
    for name in names:
        deployment.trees.pop(name, None)
        codes.append(await deployment.stop(name))
        await deployment.start(name)
    return codes
