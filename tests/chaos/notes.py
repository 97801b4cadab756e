"""What clients want, and what they write down of what they were told. Pure.

OK        2xx                          the order was accepted
FAIL      4xx                          it was not
UNKNOWN   5xx, no answer, a reset      nobody knows; so does a 409 that says that the key is in flight elsewhere
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
# What ingest_api allows. Of 20 products that is 20 million orders that differ: hardly a row is like another's.
MAX_QUANTITY = 1_000_000
# One in a hundred orders is none, so that there are some whose absence means something.
_BAD_SHARE = 0.01
_IN_FLIGHT = "request-in-flight"
TIMEOUT = "timeout"


class Verdict(Enum):
    OK = "OK"
    FAIL = "FAIL"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One order as its client wants it."""

    product_id: str
    quantity: int
    key: str | None = None
    """The Idempotency-Key, if it has one."""

    @property
    def what(self) -> tuple[str, int]:
        return self.product_id, self.quantity

    def request(self, host: str) -> bytes:
        """An HTTP/1.1 request to ingest_api."""
        body = msgspec.json.encode({"productId": self.product_id, "quantity": self.quantity})
        key = f"Idempotency-Key: {self.key}\r\n" if self.key else ""
        head = (
            f"POST {ORDERS} HTTP/1.1\r\nHost: {host}\r\n{key}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(slots=True, eq=False)
class Note:
    """One request. Times are Unix seconds, which the database's can be compared with."""

    wanted: Wanted
    sent_s: float = field(default_factory=time.time)
    ended_s: float | None = None
    """None: it waits for its answer."""
    status: int = 0
    """0: there was no answer."""
    told: str = ""
    """The order's id, the problem's name, or what became of the connection: reset, refused, timeout."""

    def end(self, status: int, told: str) -> None:
        self.ended_s, self.status, self.told = time.time(), status, told

    @property
    def verdict(self) -> Verdict:
        if 200 <= self.status < 300:
            return Verdict.OK
        return Verdict.FAIL if 400 <= self.status < 500 and self.told != _IN_FLIGHT else Verdict.UNKNOWN


@dataclass(slots=True)
class Intent:
    """One order, however often it was sent: with a key, all requests with it are one."""

    wanted: Wanted
    verdict: Verdict
    ids: set[str]
    """Those that it was told. One, if all is well."""
    was_unknown: bool = False
    """Whether any of its requests was."""


def intents_of(notes: Iterable[Note]) -> list[Intent]:
    """The orders behind the requests. One that was accepted is; otherwise its last answer counts."""
    by_key: dict[object, Intent] = {}
    for note in notes:
        intent = by_key.setdefault(note.wanted.key or note, Intent(note.wanted, note.verdict, set()))
        if intent.verdict is not Verdict.OK:
            intent.verdict = note.verdict
        intent.was_unknown |= note.verdict is Verdict.UNKNOWN
        if note.verdict is Verdict.OK:
            intent.ids.add(note.told)
    return list(by_key.values())


def some_orders(
    rng: random.Random, product_ids: Sequence[str], *, keyed: float = 0.0, max_quantity: int = MAX_QUANTITY
) -> Iterator[Wanted]:
    """Orders without end, nearly all of them good. `keyed`: the share of those that have a key.

    With so many quantities hardly two are alike, so that a stored row tells which of them it is.
    """
    while True:
        key = str(uuid.UUID(int=rng.getrandbits(128), version=4)) if rng.random() < keyed else None
        product_id, quantity = rng.choice(product_ids), rng.randint(1, max_quantity)
        if rng.random() < _BAD_SHARE:
            # Of a product that there is, none; or one of a product that there is not.
            product_id, quantity = rng.choice(
                [(product_id, 0), (str(uuid.UUID(int=rng.getrandbits(128), version=4)), 1)]
            )
        yield Wanted(product_id, quantity, key)
