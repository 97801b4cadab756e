"""Asks replicas in containers for their health and backlog.

Their health listeners are not published, so their health check program asks each inside its container.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from stack.run import backlog
from stack.run.backlog import NO_ANSWER, Waiting

# Docker starts a process, which waits at most 1.5 s for an answer. A frozen container never answers.
TIMEOUT_S = 10.0
_AT_ONCE = 8
_ASK = ("python", "-IS", "/app/stack/services/healthcheck.py")


def added_up(replicas: Sequence[Sequence[Waiting] | None]) -> list[Waiting] | None:
    """The sum of the replicas' backlogs; None if there is no replica, or one of them does not answer."""
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
    """The replica's number within its service: the end of the name that Compose gives it."""
    return str(container["Name"]).rpartition("-")[2]


# ── I/O below


def waiting_in(ingest_apis: Sequence[Mapping[str, Any]], run: Sequence[str]) -> list[Waiting] | None:
    """Ask all ingest_apis for their backlog, and add it up. `run`: the command that runs a program in a container."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return added_up([*pool.map(lambda it: _waiting_in(it, run), ingest_apis)])


def why_not_ready(containers: Sequence[Mapping[str, Any]], run: Sequence[str]) -> str:
    """The first cause that a container names; "" if none names any."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return next(filter(None, pool.map(lambda it: _why(it, run), containers)), "")


def _waiting_in(ingest_api: Mapping[str, Any], run: Sequence[str]) -> list[Waiting] | None:
    code, page = _ask(ingest_api, run, "/metrics")
    return (backlog.read_waiting(page) or None) if code == 0 else None


def _why(container: Mapping[str, Any], run: Sequence[str]) -> str:
    code, page = _ask(container, run, "/health")
    return backlog.read_why(200 if code == 0 else 503, page) if page.startswith("{") else page.strip() or NO_ANSWER


def _ask(container: Mapping[str, Any], run: Sequence[str], path: str) -> tuple[int, str]:
    """Exit code (0: the page has status 200) and page."""
    command = [*run, "--index", _index_of(container), container["Service"], *_ASK, path]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return 1, ""
    return done.returncode, done.stdout
