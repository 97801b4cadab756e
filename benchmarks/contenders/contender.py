"""Describes a contender of the benchmarks: plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

RequestKind = Literal["order", "keyed", "bulk"]


@dataclass(frozen=True)
class Part:
    """One process of a contender, run as `python -m module` from the root of the repository.

    It finds DATABASE_URL, AMQP_URL, REDIS_URL and ORDER_ID_KEY in its environment, listens on 127.0.0.1 if at all,
    and ends on SIGTERM.
    """

    name: str
    """The name under which CPU time and memory are reported."""
    module: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment."""
    ready: str | None = "/readyz"
    """The path that answers 200 when it can work; None for a process that serves no HTTP."""
    port_variable: str | None = "PORT"
    """The variable that sets its port; None for a process that serves no HTTP."""


@dataclass(frozen=True)
class Contender:
    """A way to take orders: POST `path` with {"productId", "quantity"} → 2xx with an object that holds "id".

    An order counts when its id is in `orders` and in `stock_ledger`, and the product's `qty` has moved.
    """

    name: str
    title: str
    what: str
    """One sentence: how it works."""
    guarantee: str
    """One sentence: what its 2xx promises, and what is lost when."""
    parts: tuple[Part, ...]
    """The processes. The first one takes the requests."""
    path: str = "/api/v1/orders"
    request: RequestKind = "order"
    orders_per_request: int = 1
    stores: bool = True
    """False for an endpoint that only answers: nothing is stored, so nothing is accounted for."""
    checkout: Path | None = None
    """Another repository of Headrace, whose processes and migrations are run; None: this one."""
    peer: bool = False
    """Whether it is a common alternative. The verdict compares with the best of these."""
