"""The orders that clients want, and their records of the answers. Pure.

OK        2xx                          the order was accepted
FAIL      4xx                          it was not
UNKNOWN   5xx, no answer, a reset      unknown; also a 409 because the key is in flight elsewhere
"""

import random
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

import msgspec

from tests.support.services.ingest import ORDERS

PRICE = "12.50"
# ingest_api's maximum. With 20 products, 20 million orders differ, so hardly two rows are alike.
MAX_QUANTITY = 1_000_000
# One in a hundred orders is invalid, so that some must be absent.
_BAD_SHARE = 0.01
_IN_FLIGHT = "request-in-flight"
TIMEOUT = "timeout"


class Verdict(Enum):
    OK = "OK"
    FAIL = "FAIL"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class WantedOrder:
    """One order that a client wants."""

    product_id: str
    quantity: int
    key: str | None = None
    """The Idempotency-Key, if any."""

    @property
    def what(self) -> tuple[str, int]:
        return self.product_id, self.quantity

    def request(self, host: str) -> bytes:
        """The HTTP/1.1 request to ingest_api."""
        body = msgspec.json.encode({"productId": self.product_id, "quantity": self.quantity})
        key = f"Idempotency-Key: {self.key}\r\n" if self.key else ""
        head = (
            f"POST {ORDERS} HTTP/1.1\r\nHost: {host}\r\n{key}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(slots=True, eq=False)
class Attempt:
    """The record of one request. Times are Unix seconds, comparable with the database's."""

    wanted: WantedOrder
    sent_s: float = field(default_factory=time.time)
    ended_s: float | None = None
    """None: no answer yet."""
    status: int = 0
    """0: there was no answer."""
    told: str = ""
    """The order's id, the problem's name, or how the connection ended: reset, refused, timeout."""

    def end(self, status: int, told: str) -> None:
        self.ended_s, self.status, self.told = time.time(), status, told

    @property
    def verdict(self) -> Verdict:
        if 200 <= self.status < 300:
            return Verdict.OK
        return Verdict.FAIL if 400 <= self.status < 500 and self.told != _IN_FLIGHT else Verdict.UNKNOWN


@dataclass(slots=True)
class Intent:
    """One order with all its requests: those with the same key are one order."""

    wanted: WantedOrder
    verdict: Verdict
    ids: set[str]
    """The ids in its answers; exactly one if all is well."""
    was_unknown: bool = False
    """Whether the outcome of any of its requests was unknown."""


def intents_of(attempts: Iterable[Attempt]) -> list[Intent]:
    """Group requests into orders. An accepted order stays accepted; otherwise its last answer counts."""
    by_key: dict[object, Intent] = {}
    for attempt in attempts:
        intent = by_key.setdefault(attempt.wanted.key or attempt, Intent(attempt.wanted, attempt.verdict, set()))
        if intent.verdict is not Verdict.OK:
            intent.verdict = attempt.verdict
        intent.was_unknown |= attempt.verdict is Verdict.UNKNOWN
        if attempt.verdict is Verdict.OK:
            intent.ids.add(attempt.told)
    return list(by_key.values())


def some_orders(
    rng: random.Random, product_ids: Sequence[str], *, keyed: float = 0.0, max_quantity: int = MAX_QUANTITY
) -> Iterator[WantedOrder]:
    """Endless orders, nearly all valid. `keyed`: the share with a key.

    Quantities vary so much that a stored row identifies its order.
    """
    while True:
        key = str(uuid.UUID(int=rng.getrandbits(128), version=4)) if rng.random() < keyed else None
        product_id, quantity = rng.choice(product_ids), rng.randint(1, max_quantity)
        if rng.random() < _BAD_SHARE:
            # Quantity 0 of an existing product, or one of an unknown product.
            product_id, quantity = rng.choice(
                [(product_id, 0), (str(uuid.UUID(int=rng.getrandbits(128), version=4)), 1)]
            )
        yield WantedOrder(product_id, quantity, key)
