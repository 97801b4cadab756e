"""Parks orders, replays their dead letters, and reads what waits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from database.connection import Connection
from database.dead_letters import DeadLetter, park
from pipeline.contract import topology
from pipeline.contract.orders import AnyOrder
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from stack.operate.dead.replay import Replayed, Send, declare, replay, send_by
from stack.operate.dead.sql import Filters
from stack.operate.publishing import publishing
from tests.support.brokers.broker import unsettled
from tests.support.services.workers import connected, persist_worker, product_consumer

ALL = Filters()
ACCEPTED, CREATED = topology.ORDERS_ACCEPTED_QUEUE, topology.ORDERS_CREATED_QUEUE


@asynccontextmanager
async def sending(environment: dict[str, str]) -> AsyncIterator[Send]:
    async with publishing(environment["AMQP_URL"], "test", declare) as publisher:
        yield send_by(publisher)


async def replayed(
    connection: Connection, send: Send, filters: Filters = ALL, *, limit: int | None = None, rate: float = 1000
) -> Replayed:
    done = Replayed()
    await replay(connection, send, filters, done, limit=limit, rate=rate)
    return done


async def replay_all(environment: dict[str, str]) -> Replayed:
    async with connected(environment["DATABASE_URL"]) as connection, sending(environment) as send:
        return await replayed(connection, send)


async def park_orders(
    connection: Connection, stage: Stage, *orders: AnyOrder, reason: Reason = Reason.INVALID_DATA
) -> None:
    await park(connection, stage, [DeadLetter.of_order(it, reason, "") for it in orders])


async def waiting(connection: Connection) -> list[str]:
    """The orders of waiting letters, oldest first."""
    query = "SELECT order_id::text FROM dead_letters WHERE replayed_at IS NULL ORDER BY id"
    return [row[0] for row in await connection.fetch(query)]


async def run_pipeline(environment: dict[str, str]) -> None:
    """Run both workers over all messages of their queues."""
    for queue, worker_of in ((ACCEPTED, persist_worker), (CREATED, product_consumer)):
        messages = await unsettled(environment["AMQP_URL"], queue)
        async with worker_of(environment, batch_max_deliveries=1) as worker:
            for _ in range(messages):
                await worker.run_once()
