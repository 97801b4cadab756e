"""Requests and results of the load generator, and what a client may conclude from each answer.

ACCEPTED   201, 202           the server has taken the order
REFUSED    4xx                the server promises that it has not; so does a 503 whose problem type says so
UNKNOWN    everything else    5xx, no answer in time, a reset, an answer that is not HTTP: either may be true
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

NO_ANSWER = 0
"""The status in the result of a request that was sent and never answered."""

NOT_ACCEPTED = frozenset({b"broker-unavailable", b"overloaded", b"store-unavailable"})
"""Problem types of a 503 that promise that nothing was accepted. `outcome-unknown` does not."""


@dataclass(frozen=True, slots=True, eq=False)
class Request(Generic[T]):
    """A request's bytes, to send any number of times. `about` is the caller's, and comes back with each answer."""

    raw: bytes
    about: T

    @classmethod
    def post(cls, url: str, body: bytes, about: T, token: str | None = None) -> Request[T]:
        """A POST of a JSON body to the absolute `url` (http only). `token`: an API key, if one is needed."""
        parts = urlsplit(url)
        key = f"Authorization: Bearer {token}\r\n" if token else ""
        head = (
            f"POST {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\n{key}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return cls(head.encode("ascii") + body, about)


@dataclass(slots=True, repr=False)  # asyncio.Runner makes the repr of what its task returned: a GB for 1M rows
class LoadResult(Generic[T]):
    """Every request that was sent, in columns, in the order of the answers.

    `statuses`: HTTP statuses or NO_ANSWER. `sent_s`: time.perf_counter() of the send. `took_s`: from there to the end
    of the answer. `kept`: what `keep` made of a 2xx body, or the problem's name in any other.
    """

    requests: list[Request[T]] = field(default_factory=list)
    statuses: array[int] = field(default_factory=lambda: array("H"))
    sent_s: array[float] = field(default_factory=lambda: array("d"))
    took_s: array[float] = field(default_factory=lambda: array("d"))
    kept: list[bytes] = field(default_factory=list)
    samples: dict[int, bytes] = field(default_factory=dict)
    """The first body of each status of 300 and above, cut to 500 bytes."""
    last_refusal: bytes = b""
    """The last body of a status of 300 and above, cut likewise."""
    started_s: float = 0.0
    ended_s: float = 0.0
    """time.perf_counter() of the first send and of the last answer."""
    cpu_s: float = 0.0
    """CPU seconds of this process while it drove."""
    open_at_once: int = 0
    """The most connections that were open at the same time."""
    gave_up: str = ""
    """Why a client stopped before the requests were used up: it could not reconnect."""
    without_acceptance_s: float = 0.0
    """Seconds without an acceptance after which sending was stopped; 0: it was not."""
    follow_ups: LoadResult[str] | None = None
    """The requests that answers made necessary, such as cancellations; None: there were none. They are in no other
    column. `about`: the id of the order.
    """

    def __len__(self) -> int:
        return len(self.statuses)

    def add(self, request: Request[T], status: int, kept: bytes, body: bytes, sent_s: float) -> None:
        """Record an answer that is complete now. `body`: of it, which is kept if it is a refusal."""
        self.took_s.append(time.perf_counter() - sent_s)
        self.sent_s.append(sent_s)
        self.requests.append(request)
        self.statuses.append(status)
        self.kept.append(kept)
        if status >= 300:
            self.last_refusal = body[:500]
            self.samples.setdefault(status, self.last_refusal)

    def follow_up_answers(self) -> Iterable[tuple[Request[str], int, bytes]]:
        """Request, status and kept of each follow-up."""
        found = self.follow_ups
        return zip(found.requests, found.statuses, found.kept, strict=True) if found else ()

    def by_status(self) -> Counter[int]:
        return Counter(self.statuses)

    def accepted_ms(self) -> list[float]:
        """Latencies of the accepted requests, from send to answer: milliseconds, ascending."""
        taken = (took for took, status in zip(self.took_s, self.statuses, strict=True) if is_accepted(status))
        return sorted(took * 1000 for took in taken)


def is_accepted(status: int) -> bool:
    """Whether the server has taken the order (201: the answer of the service that Headrace replaces)."""
    return status in (201, 202)


def is_done(status: int) -> bool:
    """Whether the server has done, or will do, what a follow-up asked for."""
    return 200 <= status < 300


def is_refused(status: int, problem: bytes = b"") -> bool:
    """Whether the server promises that it has not taken the order. A 503 does so only by its `problem`."""
    return 400 <= status < 500 or (status == 503 and problem in NOT_ACCEPTED)


def reason(status: int, problem: bytes) -> str:
    """Why an order was not accepted: the problem's name, or the status if the answer has none."""
    return problem.decode() if problem and status >= 400 else str(status)


def percentile(ascending: list[float], fraction: float) -> float | None:
    """The smallest value that at least `fraction` of the values do not exceed (nearest rank)."""
    if not ascending:
        return None
    return ascending[max(0, -int(-fraction * len(ascending) // 1) - 1)]
