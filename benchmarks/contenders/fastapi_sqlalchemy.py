"""The common synchronous service: FastAPI, SQLAlchemy 2 on asyncpg, one transaction for each order, no broker."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
    Uuid,
    bindparam,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.contenders.models import NewOrder, Order

_POOL = 20
engine = create_async_engine(
    os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://"), pool_size=_POOL, max_overflow=0
)

_metadata = MetaData()
products = Table(
    "products",
    _metadata,
    Column("id", Uuid, primary_key=True),
    Column("price", Numeric(12, 2)),
    Column("qty", BigInteger),
    Column("version", BigInteger),
    Column("updated_at", DateTime(timezone=True)),
    Column("deleted_at", DateTime(timezone=True)),
)
orders = Table(
    "orders",
    _metadata,
    Column("id", Uuid, primary_key=True),
    Column("product_id", Uuid),
    Column("quantity", Integer),
    Column("unit_price", Numeric(12, 2)),
    Column("total_price", Numeric(20, 2)),
    Column("accepted_at", DateTime(timezone=True)),
)
stock_ledger = Table(
    "stock_ledger",
    _metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("product_id", Uuid),
    Column("quantity", Integer),
    Column("outcome", Text),
)

# Built once: SQLAlchemy then finds what it compiled.
_TAKE_STOCK = (
    update(products)
    .where(products.c.id == bindparam("product"), products.c.qty >= bindparam("units"), products.c.deleted_at.is_(None))
    .values(qty=products.c.qty - bindparam("units"), version=products.c.version + 1, updated_at=func.clock_timestamp())
    .returning(products.c.price)
)
_IS_SOLD = select(products.c.id).where(products.c.id == bindparam("product"), products.c.deleted_at.is_(None))
_INSERT_ORDER = insert(orders)
_INSERT_VERDICT = insert(stock_ledger)


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


app = FastAPI(lifespan=_lifespan)


@app.get("/readyz")
async def ready() -> None:
    """It serves."""


@app.post("/api/v1/orders", status_code=201)
async def create_order(new: NewOrder) -> Order:
    product = {"product": new.product_id}
    async with engine.begin() as connection:
        price = await connection.scalar(_TAKE_STOCK, product | {"units": new.quantity})
        if price is None and await connection.scalar(_IS_SOLD, product):
            raise HTTPException(409, "sold out")
        order = new.priced(price)
        what = {"product_id": order.product_id, "quantity": order.quantity}
        money = {"unit_price": order.unit_price, "total_price": order.total_price}
        await connection.execute(_INSERT_ORDER, {"id": order.id, "accepted_at": order.created_at, **what, **money})
        await connection.execute(_INSERT_VERDICT, {"order_id": order.id, "outcome": "PROCESSED", **what})
    return order.model_copy(update={"status": "PROCESSED"})
