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

from proof.orders import Line, Mix, Order, body_of
from tests.support.services.ingest import ORDERS

PRICE = "12.50"
# ingest_api's maximum. With 20 products, 20 million orders differ, so hardly two rows are alike.
MAX_QUANTITY = 1_000_000
# What clients want, unless a scenario says otherwise.
LOAD = Mix(lines=3, baskets=1 / 3, detailed=1 / 3, cancelled=0.05)
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

    order: Order
    key: str | None = None
    """The Idempotency-Key, if any."""
    is_cancelled: bool = False
    """Whether the client takes it back at once after the 202."""

    def request(self, host: str) -> bytes:
        """The HTTP/1.1 request to ingest_api."""
        body = body_of(self.order)
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
    rng: random.Random,
    product_ids: Sequence[str],
    *,
    keyed: float = 0.0,
    max_quantity: int = MAX_QUANTITY,
    mix: Mix = LOAD,
) -> Iterator[WantedOrder]:
    """Endless orders, nearly all valid. `keyed`: the share with a key.

    Quantities vary so much that a stored row identifies its order.
    """

    def pick(count: int) -> Sequence[Line]:
        products = rng.sample(product_ids, min(count, len(product_ids)))
        return [(product_id, rng.randint(1, max_quantity)) for product_id in products]

    while True:
        key = _uuid(rng) if rng.random() < keyed else None
        order = mix.draw(rng, pick)
        if rng.random() < _BAD_SHARE:
            order = _spoilt(rng, order)
        yield WantedOrder(order, key, mix.is_cancelled(rng))


def _spoilt(rng: random.Random, order: Order) -> Order:
    """The order with a first line of nothing, or of an unknown product."""
    return rng.choice([order._replace(quantity=0), order._replace(product_id=_uuid(rng))])


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
