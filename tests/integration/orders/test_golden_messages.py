"""A message of every schema, written by any release, is stored and decided."""

import msgspec
import pytest

from pipeline.contract import topology
from pipeline.contract.columns import selected
from pipeline.contract.order_rows import orders_of
from pipeline.contract.orders import COLUMNS, OF_BASKET, lines_of
from tests.golden import GOLDEN, Golden
from tests.support.brokers.broker import plain_channel, send
from tests.support.data.orders import by_id
from tests.support.services.workers import (
    add_product,
    connected,
    dead_letters,
    persist_worker,
    product_consumer,
    verdicts,
)

_STORED = f"SELECT {selected((*COLUMNS, *OF_BASKET), 'orders')} FROM orders ORDER BY orders.id, orders.line"


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda it: it.name)
async def test_golden_messages_are_stored_and_decided(environment: dict[str, str], golden: Golden) -> None:
    orders, headers = golden.orders, golden.properties["headers"]
    async with connected(environment["DATABASE_URL"]) as connection:
        for product_id in {line.product_id for it in orders for line in lines_of(it)}:
            await add_product(connection, product_id, 2_000_000)
        async with plain_channel(environment["AMQP_URL"]) as channel:
            await topology.declare_accepted(channel)
            copy = await channel.declare_queue(exclusive=True)
            await copy.bind(topology.ORDERS_EXCHANGE, topology.ORDER_CREATED)
            await send(channel, topology.ORDERS_EXCHANGE, topology.ORDER_ACCEPTED, golden.accepted, headers=headers)
            async with persist_worker(environment) as first, product_consumer(environment) as second:
                assert await first.run_once() == len(orders)
                forwarded = await copy.get(no_ack=True)
                assert (forwarded.body, forwarded.headers) == (golden.created, headers)
                assert await second.run_once() == len(orders)
        stored = [*orders_of(await connection.fetch(_STORED))]
        # The trace context is for logs. No table stores it.
        assert by_id(*stored) == by_id(*(msgspec.structs.replace(it, traceparent=None) for it in orders))
        assert await verdicts(connection) == dict.fromkeys([it.id for it in orders])
        assert await dead_letters(connection) == []
