"""Changes of qty: each is a row of stock_adjustments, and concurrent ones add up (P3)."""

import asyncio

import asyncpg
import httpx

from tests.support.data.products import Audit
from tests.support.scenes.products import LAPTOP, OVERWRITE, create, running_product_api


async def test_every_change_of_qty_is_written_down_with_its_reason(api: httpx.AsyncClient, audit: Audit) -> None:
    path = await create(api, qty=50)
    await api.put(path, json={**LAPTOP, "qty": 40}, headers=OVERWRITE)
    await api.patch(path, json={"price": 1})
    await api.patch(path, json={"qty": 45}, headers=OVERWRITE)
    await api.post(f"{path}/restock", json={"quantity": 5})
    await api.delete(path)
    assert await audit.adjustments(path.rpartition("/")[2]) == [
        (50, "creation"),
        (-10, "correction"),
        (5, "correction"),
        (5, "restock"),
    ]
    assert await audit.unbalanced() == []


async def test_a_product_created_without_stock_has_nothing_to_write_down(api: httpx.AsyncClient, audit: Audit) -> None:
    path = await create(api, qty=0)
    assert await audit.adjustments(path.rpartition("/")[2]) == []
    restocked = await api.post(f"{path}/restock", json={"quantity": 3})
    assert (restocked.status_code, restocked.json()["qty"]) == (200, 3)


async def test_a_restock_past_the_limit_is_refused_and_changes_nothing(api: httpx.AsyncClient, audit: Audit) -> None:
    path = await create(api, qty=10**15)
    refused = await api.post(f"{path}/restock", json={"quantity": 1})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "#/quantity")
    assert (await api.get(path)).headers["ETag"] == '"1"'


async def test_concurrent_restocks_corrections_and_orders_keep_the_books_balanced(
    environment: dict[str, str], audit: Audit, database_url: str
) -> None:
    async with (
        # All wait for one row, the last one for all others. With 2 s for each, a slow machine answers some with a 503.
        running_product_api(environment, database_timeout_s=60) as api,
        asyncpg.create_pool(database_url, min_size=3, max_size=3) as pool,
    ):
        api.timeout = 60
        path = await create(api, qty=100)
        product_id = path.rpartition("/")[2]
        answers = await asyncio.gather(
            *(api.post(f"{path}/restock", json={"quantity": 7}) for _ in range(30)),
            # Each changes the name too, because setting the current qty alone would change nothing.
            *(api.put(path, json={**LAPTOP, "name": f"put {n}", "qty": 50 + n}, headers=OVERWRITE) for n in range(15)),
            *(api.patch(path, json={"name": f"patch {n}", "qty": 60 + n}, headers=OVERWRITE) for n in range(15)),
            *(_sell(pool, product_id, 3) for _ in range(30)),
        )
        assert {answer.status_code for answer in answers if answer is not None} == {200}
        assert await audit.unbalanced() == []
        found = await api.get(path)
    assert found.json()["qty"] == await audit.qty(product_id)
    assert found.headers["ETag"] == f'"{1 + 90}"'


async def _sell(pool: "asyncpg.Pool[asyncpg.Record]", product_id: str, quantity: int) -> None:
    """Sell as product_consumer does: verdict and stock in one transaction."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT 1 FROM products WHERE id = $1 FOR UPDATE", product_id)
        await connection.execute(
            "UPDATE products SET qty = qty - $2, version = version + 1 WHERE id = $1", product_id, quantity
        )
        await connection.execute(
            "INSERT INTO stock_ledger (order_id, product_id, quantity, outcome)"
            " VALUES (gen_random_uuid(), $1, $2, 'PROCESSED')",
            product_id,
            quantity,
        )
