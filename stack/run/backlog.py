"""Reads the services' health and backlog for `status` and `verify`: why one is not ready, how many orders wait."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stack.process.http import get

TIMEOUT_S = 2.0
NO_ANSWER = f"does not answer within {TIMEOUT_S:g} s"
WORKERS = {"orders.accepted": "persist_worker", "orders.created": "product_consumer"}
"""Queue → the worker that consumes it."""
_WAITS_FOR = {"orders.accepted": "row", "orders.created": "verdict"}
_SAMPLE = re.compile(r'^headrace_backlog_(orders|messages|oldest_seconds)\{queue="([^"]+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Waiting:
    """The accepted orders that wait in a queue or are in its worker's hands, as ingest_api counts them."""

    queue: str
    orders: int
    messages: int
    oldest_s: float


def read_waiting(page: str) -> list[Waiting]:
    """Parse ingest_api's /metrics page. Returns [] if it has no backlog."""
    found: dict[str, dict[str, float]] = {}
    for what, queue, value in _SAMPLE.findall(page):
        found.setdefault(queue, {})[what] = float(value)
    return [
        Waiting(queue, int(found[queue]["orders"]), int(found[queue]["messages"]), found[queue]["oldest_seconds"])
        for queue in WORKERS
        if len(found.get(queue, ())) == 3
    ]


def read_why(status: int, body: str) -> str:
    """Why a service is not ready, from its answer to /health; "" if it is ready."""
    try:
        health = json.loads(body)
        if status == 200 and health["status"] == "ready":
            return ""
        wrong = {part: text for part, text in health["parts"].items() if text != "ok"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"/health answers {status}"
    return "; ".join(f"{part}: {text}" for part, text in wrong.items()) or "not ready"


def sentence(it: Waiting, troubles: Mapping[str, str]) -> str:
    """One line about a queue. `troubles`: service → why it is not ready."""
    what = f"{many(it.orders, 'order')} in {many(it.messages, 'message')} wait for their {_WAITS_FOR[it.queue]}"
    if not it.orders:
        return f"no order waits for its {_WAITS_FOR[it.queue]}"
    worker = WORKERS[it.queue]
    why = f"; {worker} {_short(troubles[worker])}" if worker in troubles else ""
    return f"{what}, the oldest for {it.oldest_s:.0f} s{why}"


def many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def as_json(waiting: Sequence[Waiting] | None) -> dict[str, dict[str, float]] | None:
    """The backlog by queue; None if it is unknown."""
    if waiting is None:
        return None
    return {it.queue: {"orders": it.orders, "messages": it.messages, "oldest_s": it.oldest_s} for it in waiting}


def _short(why: str) -> str:
    return why if why == NO_ANSWER else "is not ready"


# ── I/O below


def why_not_ready(url: str, token: str | None) -> str:
    """Ask a service why it is not ready; "" if it is. `token`: of a key with the scope `ops`, if there are keys."""
    try:
        return read_why(*get(f"{url}/health", TIMEOUT_S, token))
    except TimeoutError:
        return NO_ANSWER
    except OSError as error:
        return f"does not answer: {getattr(error, 'reason', error)}" if not _is_timeout(error) else NO_ANSWER


def _is_timeout(error: OSError) -> bool:
    """urllib wraps a timeout of connecting in a URLError."""
    return isinstance(getattr(error, "reason", None), TimeoutError)


def waiting_at(url: str, token: str | None) -> list[Waiting] | None:
    """Ask an ingest_api for its backlog. None if it does not answer, or does not know."""
    try:
        status, page = get(f"{url}/metrics", TIMEOUT_S, token)
    except OSError:
        return None
    return (read_waiting(page) or None) if status == 200 else None
