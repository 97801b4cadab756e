"""Creates two products for the first orders. The first has the id that all examples in the documents use.

python -m stack.services.seeds       the job `seeds` of docker-compose.yml; reads DATABASE_URL
"""

from __future__ import annotations

import asyncio
import json
import sys
from decimal import Decimal
from typing import Any, NamedTuple

import asyncpg

from pipeline.contract.fields import EXAMPLE_PRODUCT
from stack.errors import HeadraceError
from stack.home.environment import external_urls
from stack.process.http import get

TIMEOUT_S = 10


class Seed(NamedTuple):
    id: str
    name: str
    price: Decimal
    qty: int


PRODUCTS = (
    Seed(EXAMPLE_PRODUCT, "Laptop Demo", Decimal("1500.00"), 50),
    Seed("01a20261-5c40-7b6e-9f0a-3d5c1e8a7b43", "Mechanical Keyboard", Decimal("89.90"), 200),
)

# With SQL, because product_api mints the ids of its products. The stock has its adjustment, as that of every product.
_PLANT = """
    WITH planted AS (
        INSERT INTO products (id, name, price, qty)
        SELECT * FROM unnest($1::uuid[], $2::text[], $3::numeric[], $4::bigint[])
        WHERE NOT EXISTS (SELECT FROM products)
        RETURNING id, qty
    )
    INSERT INTO stock_adjustments (product_id, delta, reason)
    SELECT id, qty, 'creation' FROM planted
"""


async def plant(database_url: str) -> str:
    """Create the demo products, unless there are or were products. Returns what it did.

    `database_url`: as product_api's role, which may create products. Raises HeadraceError.
    """
    try:
        connection = await asyncpg.connect(database_url, timeout=TIMEOUT_S)
        try:
            done = await connection.execute(_PLANT, *zip(*PRODUCTS, strict=True), timeout=TIMEOUT_S)
        finally:
            connection.terminate()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise HeadraceError("the demo products were not stored", f"PostgreSQL: {error or 'no answer'}") from error
    planted = int(done.rpartition(" ")[2])  # of `INSERT 0 2`
    return f"{planted} demo products" if planted else "demo products: skipped, there are products already"


def products(product_api: str, token: str | None) -> list[dict[str, Any]]:
    """The answer to GET /products. Raises HeadraceError if it is no list of products."""
    status, body = get(f"{product_api}/products", TIMEOUT_S, token)
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if status != 200 or not isinstance(found, list):
        raise HeadraceError(f"GET /products answers {status}", body[:300], "./headrace logs product_api")
    return found


def main() -> None:
    try:
        if (database_url := external_urls().get("postgres")) is None:
            raise HeadraceError("DATABASE_URL is not set", "this job is started by docker-compose.yml")
        print(asyncio.run(plant(database_url)))
    except HeadraceError as error:
        sys.exit("\n".join(error.lines()))


if __name__ == "__main__":
    main()
