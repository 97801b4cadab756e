"""Limits the orders a second of a client: a token bucket that holds one second's worth, kept as one number.

The number is the moment at which the bucket will be full again (GCRA, ITU-T I.371: "theoretical arrival time"). An
order moves it 1/N s ahead, and is admitted if it stays within the next second. The bucket belongs to the client, and
the pace to the key in use, so a client with two keys does not get twice as much.

The two fields are those of draft-ietf-httpapi-ratelimit-headers-10.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Message, Send

from web.access.clients import Client
from web.problems.problems import too_many_requests

_S = 1_000_000_000
_WINDOW_NS = _S


@dataclass(frozen=True, slots=True)
class Quota:
    """What a client is told of its limit."""

    orders_per_s: int
    remaining: int
    """Orders that it may send at once."""
    reset_s: int
    """Rounded up: until the quota is full again; after a refusal, until there is enough for the refused orders."""

    def fields(self) -> dict[str, str]:
        """The answer's header fields."""
        return {
            "RateLimit-Policy": f'"orders";q={self.orders_per_s};w=1',
            "RateLimit": f'"orders";r={self.remaining};t={self.reset_s}',
        }


def admit(full_at_ns: int, now_ns: int, orders: int, orders_per_s: int) -> tuple[int, Quota] | Quota:
    """Admits `orders` if a bucket that is full at `full_at_ns` has enough. Returns when it is full thereafter, and the
    quota left; or, if it has not enough, only the quota to tell.

    A full bucket admits any number, and owes the difference. Otherwise a bulk of 500 could never be sent at 100
    orders/s; this way, five seconds of silence pay for it.
    """
    each_ns = _S // orders_per_s
    owed_ns, cost_ns = max(0, full_at_ns - now_ns), orders * each_ns
    if owed_ns and owed_ns + cost_ns > _WINDOW_NS:
        wait_ns = min(owed_ns, owed_ns + cost_ns - _WINDOW_NS)
        return Quota(orders_per_s, _remaining(owed_ns, each_ns, orders_per_s), _seconds(wait_ns))
    return _owing(owed_ns + cost_ns, now_ns, orders_per_s)


def owe(full_at_ns: int, now_ns: int, orders: int, orders_per_s: int) -> tuple[int, Quota]:
    """Takes `orders` from a bucket that is full at `full_at_ns`, whatever is in it. Returns the same as `admit`."""
    owed_ns = max(0, full_at_ns - now_ns) + orders * (_S // orders_per_s)
    return _owing(owed_ns, now_ns, orders_per_s)


def _owing(owed_ns: int, now_ns: int, orders_per_s: int) -> tuple[int, Quota]:
    left = _remaining(owed_ns, _S // orders_per_s, orders_per_s)
    return now_ns + owed_ns, Quota(orders_per_s, left, _seconds(owed_ns))


def _remaining(owed_ns: int, each_ns: int, most: int) -> int:
    return min(most, max(0, _WINDOW_NS - owed_ns) // each_ns)


def _seconds(ns: int) -> int:
    return -(-ns // _S)


# ── what remembers below


class RateLimits:
    """The buckets of this process's clients: one for each client that ever had a limit, 200 bytes each."""

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._full_at_ns: dict[str, int] = {}
        self._clock_ns = clock_ns

    def check(self, client: Client) -> None:
        """Raises Problem (429) if the client may not send even one order now. Takes nothing."""
        if client.orders_per_s is not None:
            self._admit(client, 1, client.orders_per_s)

    def charge(self, client: Client, orders: int, send: Send) -> Send:
        """Take `orders` from the client's bucket, if it has a limit. Raises Problem (429).

        Returns the `send` for any answer from now on, good or bad: it tells the client what is left.
        """
        if client.orders_per_s is None:
            return send
        self._full_at_ns[client.name], quota = self._admit(client, orders, client.orders_per_s)
        return _telling(quota, send)

    def owe(self, client: Client, orders: int, send: Send) -> Send:
        """Take `orders` more for a request that was charged, as its cost shows only when it is read. Returns `send` as
        charge does, which should be given the same.

        It refuses nothing: the client pays by waiting before its next request.
        """
        if client.orders_per_s is None:
            return send
        full_at_ns = self._full_at_ns.get(client.name, 0)
        self._full_at_ns[client.name], quota = owe(full_at_ns, self._clock_ns(), orders, client.orders_per_s)
        return _telling(quota, send)

    def _admit(self, client: Client, orders: int, orders_per_s: int) -> tuple[int, Quota]:
        verdict = admit(self._full_at_ns.get(client.name, 0), self._clock_ns(), orders, orders_per_s)
        if isinstance(verdict, Quota):
            raise too_many_requests(_detail(orders, verdict), verdict.reset_s, verdict.fields())
        return verdict


def _detail(orders: int, quota: Quota) -> str:
    sent = "one more" if orders == 1 else f"{orders} more at once"
    return (
        f"This client may send {quota.orders_per_s} orders a second, and {sent} would be too many."
        f" Send it again in {quota.reset_s} s."
    )


def _telling(quota: Quota, send: Send) -> Send:
    fields = [(name.lower().encode(), value.encode()) for name, value in quota.fields().items()]

    async def send_with_fields(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *fields]
        await send(message)

    return send_with_fields
