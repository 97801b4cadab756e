"""Several of each worker on the same queues."""

from collections import Counter

from tests.support.clients.load import loading
from tests.support.services.deployment import deployed
from tests.support.services.processes import service_process


async def test_two_of_each_worker_lose_nothing_and_repeat_nothing(environment: dict[str, str]) -> None:
    """P2, P3: many products. Some sell out while both product_consumers have orders for them in hand."""
    async with (
        deployed(environment) as deployment,
        service_process("persist_worker", environment) as persist_worker,
        service_process("product_consumer", environment) as product_consumer,
    ):
        stocks = {await deployment.create_product(qty=qty): qty for qty in [20] * 15 + [10_000] * 15}
        async with loading(deployment.url("ingest_api"), list(stocks), clients=64, orders=4_000) as load:
            result = await load.all()
        assert set(result.by_status()) <= {202, 409}
        assert await deployment.check_books(result, *stocks) == 0
        for product_id, stock in stocks.items():
            outcomes = Counter((await deployment.outcomes(product_id)).values())
            assert outcomes["PROCESSED"] == min(stock, outcomes.total())
            assert outcomes["out_of_stock"] == outcomes.total() - outcomes["PROCESSED"]
            assert (await deployment.product(product_id))["qty"] == stock - outcomes["PROCESSED"]
        assert await persist_worker.metric('headrace_batch_orders_sum{queue="orders.accepted"}') > 0
        assert await product_consumer.metric('headrace_batch_orders_sum{queue="orders.created"}') > 0
