"""Orders that are parked, then sent again and decided: each has two events, whose order shows.

Others have one event, and one event is never out of order.
"""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

import aio_pika
import aiormq.exceptions
import asyncpg

from pipeline.contract import topology
from pipeline.contract.orders import Order
from tests.support.brokers.broker import plain_channel, send_orders
from tests.support.services.workers import connected, park
from tests.support.time.conditions import eventually

_PER_S = 10
# Longer than the broker is away in any scenario.
_SENT_WITHIN_S = 90
_AWAY = (
    *(OSError, TimeoutError, RuntimeError, asyncpg.PostgresError, asyncpg.InterfaceError),
    *(aiormq.exceptions.AMQPError, aio_pika.exceptions.AMQPException),
)
_REPLAYED = "UPDATE dead_letters SET replayed_at = now() WHERE order_id = $1"


class ParkedOrders:
    def __init__(
        self, database_url: str, amqp_url: str, make: Callable[[], Order], sent: Callable[[Order], None]
    ) -> None:
        """`make`: an order that can be decided. `sent`: called before an order is on its way to be decided."""
        self._database_url, self._amqp_url, self._make, self._sent = database_url, amqp_url, make, sent
        self._is_over = False
        self.count = 0
        """Orders that were parked and sent again."""

    async def run(self) -> None:
        """Park one order after the other and send it again, until `stop`. What was begun is finished."""
        while not self._is_over:
            order = self._make()
            if await self._is_parked(order):
                self._sent(order)
                await eventually(partial(self._is_sent, order), _SENT_WITHIN_S, 1 / _PER_S)
                self.count += 1
            await asyncio.sleep(1 / _PER_S)  # a pace, and nothing that anybody waits for

    def stop(self) -> None:
        self._is_over = True

    async def _is_parked(self, order: Order) -> bool:
        """Parked, and marked as replayed. If PostgreSQL did not answer, the order goes no further."""
        with contextlib.suppress(*_AWAY):
            async with asyncio.timeout(5), connected(self._database_url) as connection:
                await park(connection, order, stage="stock")
                await connection.execute(_REPLAYED, order.id)
                return True
        return False

    async def _is_sent(self, order: Order) -> bool:
        with contextlib.suppress(*_AWAY):
            async with asyncio.timeout(5), plain_channel(self._amqp_url) as channel:
                await send_orders(channel, topology.ORDERS_EXCHANGE, topology.ORDER_ACCEPTED, order)
                return True
        return False
