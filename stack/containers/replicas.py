"""What the replicas in containers say of themselves. Their health listeners are published nowhere, so each is asked
inside its own container, by the program that is its health check.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from stack.run import backlog
from stack.run.backlog import NO_ANSWER, Waiting

# Docker starts a process, which asks for 1.5 s at the most. A container that is frozen never answers.
TIMEOUT_S = 10.0
_AT_ONCE = 8
_ASK = ("python", "-IS", "/app/stack/services/healthcheck.py")


def added_up(replicas: Sequence[Sequence[Waiting] | None]) -> list[Waiting] | None:
    """What waits, by queue; None if one of them does not say, or there is none: less than all is no sum."""
    if not replicas or not all(replicas):
        return None
    by_queue: dict[str, list[Waiting]] = {}
    for it in (it for replica in replicas for it in replica or ()):
        by_queue.setdefault(it.queue, []).append(it)
    return [
        Waiting(queue, sum(it.orders for it in all_), sum(it.messages for it in all_), max(it.oldest_s for it in all_))
        for queue, all_ in by_queue.items()
    ]


def _index_of(container: Mapping[str, Any]) -> str:
    """Which one of its service: the end of its name, as Compose makes them."""
    return str(container["Name"]).rpartition("-")[2]


# ── I/O below


def waiting_in(ingest_apis: Sequence[Mapping[str, Any]], run: Sequence[str]) -> list[Waiting] | None:
    """How many orders wait, as these say together. `run`: what runs a command in a container; a service follows."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return added_up([*pool.map(lambda it: _waiting_in(it, run), ingest_apis)])


def why_not_ready(containers: Sequence[Mapping[str, Any]], run: Sequence[str]) -> str:
    """What the first says that has something to say; "" if none has."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return next(filter(None, pool.map(lambda it: _why(it, run), containers)), "")


def _waiting_in(ingest_api: Mapping[str, Any], run: Sequence[str]) -> list[Waiting] | None:
    code, page = _ask(ingest_api, run, "/metrics")
    return (backlog.read_waiting(page) or None) if code == 0 else None


def _why(container: Mapping[str, Any], run: Sequence[str]) -> str:
    code, page = _ask(container, run, "/health")
    return backlog.read_why(200 if code == 0 else 503, page) if page.startswith("{") else page.strip() or NO_ANSWER


def _ask(container: Mapping[str, Any], run: Sequence[str], path: str) -> tuple[int, str]:
    """Exit code, which is 0 for a page with status 200, and the page."""
    command = [*run, "--index", _index_of(container), container["Service"], *_ASK, path]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return 1, ""
    return done.returncode, done.stdout
