"""What products cost, remembered for a minute: the price lookup of every contender that takes an order before stock.

ingest_api remembers prices too. Asking PostgreSQL for each order would cost a contender a round trip that nobody needs.
"""

import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import TypeAlias
from uuid import UUID

Fetch: TypeAlias = Callable[[UUID], Awaitable[Decimal | None]]

_REMEMBER_S = 60.0


class Prices:
    def __init__(self, fetch: Fetch) -> None:
        """`fetch`: asks the database; None if there is no such product."""
        self._fetch = fetch
        self._known: dict[UUID, tuple[Decimal, float]] = {}

    async def of(self, product_id: UUID) -> Decimal | None:
        """The price of one unit, or None if there is no such product."""
        price, until = self._known.get(product_id, (None, 0.0))
        if until > time.monotonic():
            return price
        price = await self._fetch(product_id)
        if price is not None:
            self._known[product_id] = price, time.monotonic() + _REMEMBER_S
        return price
