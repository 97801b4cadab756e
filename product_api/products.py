"""Products in PostgreSQL.

Every change is one transaction. It holds the row's lock from before it reads until it commits, adds one to `version`,
and writes a row of stock_adjustments for its change of `qty`. A change without effect writes nothing. So at every
commit qty = sum of adjustments - sum of PROCESSED orders, whatever product_consumer does to the row meanwhile.
"""

import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, NamedTuple, TypeVar
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Meta

from database.clock import ClockWatch
from database.faults import Fault, describe, fault_of
from database.sessions import Pool, StoreUnavailable, borrow, check_writable, reading
from database.sessions import PooledConnection as Connection
from pipeline.contract.adjustments import Adjustment
from pipeline.contract.fields import Moment, ProductId, UnitPrice
from pipeline.process.shares import Shares
from pipeline.process.turns import Turns
from product_api import answered
from product_api.answered import KeyedRequest
from product_api.requests import ProductValues
from web.requests.paging import Page

_COLUMNS = "id::text, name, price, qty, created_at, version"

_GET = f"SELECT {_COLUMNS} FROM products WHERE id = $1 AND deleted_at IS NULL"
_PAGE = f"""
    SELECT {_COLUMNS} FROM products WHERE deleted_at IS NULL AND (created_at, id) < ($1, $2)
    ORDER BY created_at DESC, id DESC LIMIT $3
"""
_INSERT = f"INSERT INTO products (id, name, price, qty) VALUES ($1, $2, $3, $4) RETURNING {_COLUMNS}"
# NO KEY: ids never change, and adjustments of the same product may go on checking their foreign key.
_LOCK = f"{_GET} FOR NO KEY UPDATE"
_UPDATE = f"""
    UPDATE products SET name = $2, price = $3, qty = $4, version = version + 1, updated_at = clock_timestamp()
    WHERE id = $1 RETURNING {_COLUMNS}
"""
_DELETE = f"""
    UPDATE products SET deleted_at = clock_timestamp(), version = version + 1, updated_at = clock_timestamp()
    WHERE id = $1 RETURNING {_COLUMNS}
"""
_ADJUST = "INSERT INTO stock_adjustments (product_id, delta, reason) VALUES ($1, $2, $3)"

# Requests of each sort, those at work included; one that waits takes some 10 KB. Past it, 503.
_MAX_WAITING = 200
# Clients that may change products count as one client.
_ANYONE = ""

C = TypeVar("C", bound="Change | None")


class Product(msgspec.Struct, frozen=True, rename="camel"):
    """A product as it is answered."""

    id: ProductId
    name: str
    price: UnitPrice
    qty: Annotated[int, Meta(description="Units in stock. Orders move it.", extra_json_schema={"minimum": 0})]
    created_at: Moment


class StoredProduct(NamedTuple):
    product: Product
    version: int

    @property
    def values(self) -> ProductValues:
        return ProductValues(self.product.name, self.product.price, self.product.qty)


class Change(NamedTuple):
    """A committed change. `before` is None for a new product, `after` has its last state for a deleted one."""

    before: StoredProduct | None
    after: StoredProduct
    reason: Adjustment
    deleted: bool = False

    @property
    def changes_nothing(self) -> bool:
        """Whether the request asked for the present state: nothing was written, and there is nothing to announce."""
        return self.before == self.after


class ChangeUnanswered(Exception):
    """The connection was lost during COMMIT: `change` may have been made, and may yet be made."""

    def __init__(self, change: Change) -> None:
        super().__init__(change)
        self.change = change


_encoder = msgspec.json.Encoder(decimal_format="number")


def encode(content: Product | list[Product]) -> bytes:
    """JSON; prices as numbers with the exact decimal digits of numeric(12, 2)."""
    return _encoder.encode(content)


def new_product_id() -> str:
    """A UUID version 7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then 74 random bits.

    It is ordered by time, so that inserts stay at the right edge of the index.
    """
    bits = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    bits = bits & ~(0xF << 76) | 7 << 76
    bits = bits & ~(0b11 << 62) | 0b10 << 62
    return str(UUID(int=bits))


# ── I/O below


class Products:
    """The products table. Every method raises StoreUnavailable; all but `ping` Busy; those that write ChangeUnanswered.

    Each sort of work takes turns at its own connections, so PostgreSQL is to blame for a deadline that passes.
    """

    def __init__(self, reads: Pool, writes: Pool, timeout_s: float) -> None:
        """`reads`, `writes`: apart, because a write waits for its row's lock with a connection in hand.

        `timeout_s`: for a turn to come, and then for the read or the transaction, waiting for locks included.
        """
        self._reads, self._writes, self._timeout_s = reads, writes, timeout_s
        lists = max(1, reads.get_max_size() // 3)
        self._gets = self._turns("products to read", max(1, reads.get_max_size() - lists - 1))
        self._lists = self._turns("lists of products to read", lists)
        self._changes = self._turns("products to change", writes.get_max_size())
        self._clock = ClockWatch()

    async def ping(self) -> None:
        """Check that PostgreSQL works, on a connection that nothing else takes: a busy product_api is not a fault."""
        async with reading(self._reads, self._timeout_s) as connection:
            await check_writable(connection)
            await self._clock.compare(connection)

    async def get(self, product_id: str, client: str) -> StoredProduct | None:
        """The product; None if there is none. Clients take turns."""
        async with self._gets.turn(client), reading(self._reads, self._timeout_s) as connection:
            row = await connection.fetchrow(_GET, product_id)
        return _stored(row) if row else None

    async def page(self, page: Page, client: str) -> list[StoredProduct]:
        """The products of a page, newest first, for `page.cut`. Clients take turns."""
        at, last_id = page.before.at, page.before.id
        async with self._lists.turn(client), reading(self._reads, self._timeout_s) as connection:
            rows = await connection.fetch(_PAGE, at, last_id, page.one_more)
        return [_stored(row) for row in rows]

    async def create(self, values: ProductValues, keyed: KeyedRequest | None = None) -> Change:
        """Insert a new product. If `keyed`, raises what `answered.begin` raises."""

        async def work(connection: Connection) -> Change:
            created = _stored(await connection.fetchrow(_INSERT, new_product_id(), *values))
            await _adjust(connection, created.product.id, values.qty, Adjustment.CREATION)
            return Change(None, created, Adjustment.CREATION)

        return await self._write(_once(work, keyed))

    async def change(
        self,
        product_id: str,
        reason: Adjustment,
        edit: Callable[[StoredProduct], ProductValues],
        keyed: KeyedRequest | None = None,
    ) -> Change | None:
        """Replace the values by what `edit` makes of the locked row. None if there is no such product.

        Raises what `edit` raises, and if `keyed` what `answered.begin` raises; then nothing is changed.
        """

        async def work(connection: Connection) -> Change | None:
            row = await connection.fetchrow(_LOCK, product_id)
            if row is None:
                return None
            before = _stored(row)
            values = edit(before)
            if values == before.values:
                return Change(before, before, reason)
            after = _stored(await connection.fetchrow(_UPDATE, product_id, *values))
            await _adjust(connection, product_id, values.qty - before.product.qty, reason)
            return Change(before, after, reason)

        return await self._write(_once(work, keyed))

    async def delete(self, product_id: str, check: Callable[[StoredProduct], None]) -> Change | None:
        """Take a product off sale. None if there is no such product. Raises what `check` raises.

        The row keeps its qty: nothing was sold or written off, so the books stay balanced.
        """

        async def work(connection: Connection) -> Change | None:
            row = await connection.fetchrow(_LOCK, product_id)
            if row is None:
                return None
            before = _stored(row)
            check(before)
            after = _stored(await connection.fetchrow(_DELETE, product_id))
            return Change(before, after, Adjustment.CORRECTION, deleted=True)

        return await self._write(work)

    def _turns(self, what: str, at_once: int) -> Turns:
        return Turns(Shares(what, _MAX_WAITING), at_once, self._timeout_s)

    async def _write(self, work: Callable[[Connection], Awaitable[C]]) -> C:
        committing: Change | None = None
        try:
            async with (
                self._changes.turn(_ANYONE),
                borrow(self._writes, self._timeout_s) as connection,
                connection.transaction(),
            ):
                change = await work(connection)
                committing = _to_commit(change)
            return change
        except Exception as error:
            if fault_of(error) is not Fault.PASSING:
                raise
            raise (ChangeUnanswered(committing) if committing else StoreUnavailable(describe(error))) from error


def _once(
    work: Callable[[Connection], Awaitable[C]], keyed: KeyedRequest | None
) -> Callable[[Connection], Awaitable[C]]:
    """`work` that stores its answer in the same transaction, and is not done if the request was answered before."""
    if keyed is None:
        return work

    async def once(connection: Connection) -> C:
        await answered.begin(connection, keyed)
        change = await work(connection)
        if change is not None:
            product, version = change.after
            await answered.remember(connection, keyed, product.id, version, encode(product))
        return change

    return once


def _to_commit(change: Change | None) -> Change | None:
    return None if change is None or change.changes_nothing else change


async def _adjust(connection: Connection, product_id: str, delta: int, reason: Adjustment) -> None:
    if delta:
        await connection.execute(_ADJUST, product_id, delta, reason)


def _stored(row: asyncpg.Record | None) -> StoredProduct:
    assert row is not None  # RETURNING of a row that this transaction has locked
    *values, version = row
    return StoredProduct(Product(*values), version)
