"""Failpoints: exact moments at which a service dies, stops or hangs, or one of its connections is cut.

The services do not know about them. `python -m tests.chaos.faults.failing SERVICE` patches a service before it starts,
and wraps the step that the failpoint is named after. The environment says what happens, so helpers that start services
need not know either:

    HEADRACE_FAILPOINT=persist.after_commit_before_forward:kill      at the first time
    HEADRACE_FAILPOINT=persist.mid_copy:cut:3                        at the third
    HEADRACE_FAILPOINT_ONCE=/a/path                                  this is made then; while it is there, never again

The wrapped names may be private: if one is renamed, the service fails to start, so no failpoint disappears silently.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from tests.chaos.faults import wire

VARIABLE, ONCE_VARIABLE = "HEADRACE_FAILPOINT", "HEADRACE_FAILPOINT_ONCE"

Patch = Callable[[Any, str, Any], None]
"""Replaces an existing attribute: (owner, name, value)."""


class FailpointError(ValueError):
    """The failpoint does not exist, or cannot do this. The text lists those that exist."""


class Action(Enum):
    KILL = "kill"
    """SIGKILL: no handler runs and nothing is flushed."""
    STOP = "stop"
    """SIGSTOP; the step continues after a SIGCONT."""
    HANG = "hang"
    """The step never ends; the rest of the process goes on. On a wire: no answer is read any more."""
    CUT = "cut"
    """The connection is reset. Only on a wire."""


@dataclass(slots=True)
class Trigger:
    """Counts how often the moment comes, and fires at the right one."""

    action: Action
    nth: int = 1
    once: Path | None = None
    hits: int = 0

    def is_due(self) -> bool:
        """Whether to fire. Called each time the moment comes; True at most once in a process."""
        self.hits += 1
        if self.hits != self.nth:
            return False
        if self.once is not None:
            self.once.touch(exist_ok=False)
        print(f"failpoint: {self.action.value}", file=sys.stderr, flush=True)
        return True

    async def pull(self) -> None:
        """Do it: kill, stop or hang."""
        if self.action is Action.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.action is Action.STOP:
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            await asyncio.get_running_loop().create_future()


@dataclass(frozen=True)
class Failpoint:
    name: str
    service: str
    arm: Callable[[Trigger, Patch], None]
    """Wraps the step."""
    on_wire: bool = False

    @property
    def actions(self) -> tuple[Action, ...]:
        return tuple(it for it in Action if self.on_wire or it is not Action.CUT)


def parse(text: str, once: str | None = None) -> tuple[Failpoint, Trigger]:
    """Parse HEADRACE_FAILPOINT and HEADRACE_FAILPOINT_ONCE. Raises FailpointError."""
    name, _, rest = text.partition(":")
    action, _, nth = rest.partition(":")
    failpoint = BY_NAME.get(name)
    if failpoint is None:
        raise FailpointError(f"no failpoint {name!r}; there are: {', '.join(BY_NAME)}")
    if action not in [it.value for it in failpoint.actions]:
        does = ", ".join(it.value for it in failpoint.actions)
        raise FailpointError(f"{name} does {does}; not {action!r}")
    if nth and not (nth.isdecimal() and int(nth) > 0):
        raise FailpointError(f"{name}:{action} happens at the 1st time or at a later one; not at {nth!r}")
    return failpoint, Trigger(Action(action), int(nth or 1), Path(once) if once else None)


def arm(service: str, environment: Mapping[str, str], patch: Patch) -> None:
    """Wrap the step that the environment names. Raises FailpointError, and AttributeError if the step was renamed."""
    text = environment.get(VARIABLE)
    if not text:
        return
    failpoint, trigger = parse(text, environment.get(ONCE_VARIABLE))
    if failpoint.service != service:
        raise FailpointError(f"{failpoint.name} is in {failpoint.service}, not in {service}")
    if trigger.once is None or not trigger.once.exists():
        failpoint.arm(trigger, patch)


# ── where they are


def _before(owner: Callable[[], Any], name: str, trigger: Trigger, patch: Patch) -> None:
    """Fire at the start of a coroutine method."""
    step = getattr(owner(), name)

    async def failing(*arguments: Any, **options: Any) -> Any:
        if trigger.is_due():
            await trigger.pull()
        return await step(*arguments, **options)

    patch(owner(), name, failing)


def _persist_worker() -> Any:
    from persist_worker.worker import PersistWorker

    return PersistWorker


def _batch_consumer() -> Any:
    from pipeline.broker.batches import BatchConsumer

    return BatchConsumer


def _product_cache() -> Any:
    from pipeline.cache.product_cache import ProductCache

    return ProductCache


def _webhook_client() -> Any:
    from event_relay.delivery import WebhookClient

    return WebhookClient


def _hook_store() -> Any:
    from event_relay.hook_store import HookStore

    return HookStore


def _event_exchange() -> Any:
    from event_relay.exchange import EventExchange

    return EventExchange


def _postgres_wire(moment: Callable[[], wire.Moment], trigger: Trigger, patch: Patch) -> None:
    """Fire on any of the service's connections to PostgreSQL."""
    from asyncpg.protocol import Protocol

    connection_made = Protocol.connection_made

    def watched(protocol: Any, transport: asyncio.Transport) -> None:
        connection_made(protocol, wire.WatchedTransport(transport, moment(), _interruption(trigger)))

    patch(Protocol, "connection_made", watched)


def _broker_wire(moment: Callable[[], wire.Moment], trigger: Trigger, patch: Patch) -> None:
    """Fire on any of the service's connections to RabbitMQ."""
    made = asyncio.StreamWriter.__init__

    def watched(writer: asyncio.StreamWriter, transport: asyncio.Transport, *arguments: Any, **options: Any) -> None:
        made(writer, wire.WatchedTransport(transport, moment(), _interruption(trigger)), *arguments, **options)  # type: ignore[arg-type]  # only part of a transport

    patch(asyncio.StreamWriter, "__init__", watched)


def _interruption(trigger: Trigger) -> wire.Interruption:
    return wire.Interruption(trigger.is_due, None if trigger.action is Action.CUT else trigger.pull)


FAILPOINTS = (
    Failpoint(
        "persist.after_commit_before_forward",
        "persist_worker",
        partial(_before, _persist_worker, "_forward"),
    ),
    Failpoint("persist.after_forward_before_ack", "persist_worker", partial(_before, _batch_consumer, "settle")),
    # Half of the rows are sent, and no end of the COPY.
    Failpoint("persist.mid_copy", "persist_worker", partial(_postgres_wire, lambda: wire.half_a_copy), on_wire=True),
    # COMMIT was sent and received; its answer is never read.
    Failpoint("persist.commit_sent", "persist_worker", partial(_postgres_wire, wire.CommitSent), on_wire=True),
    Failpoint("stock.commit_sent", "product_consumer", partial(_postgres_wire, wire.CommitSent), on_wire=True),
    Failpoint("stock.after_commit_before_bust", "product_consumer", partial(_before, _product_cache, "bust_or_defer")),
    Failpoint("stock.after_bust_before_ack", "product_consumer", partial(_before, _batch_consumer, "settle")),
    Failpoint("product.after_commit_before_bust", "product_api", partial(_before, _product_cache, "bust_or_defer")),
    # The broker has the message; its confirm is never read.
    Failpoint(
        "ingest.published_before_confirm",
        "ingest_api",
        partial(_broker_wire, lambda: wire.order_published),
        on_wire=True,
    ),
    Failpoint("relay.before_send", "event_relay", partial(_before, _webhook_client, "attempt")),
    # The receiver has answered; the cursor is where it was.
    Failpoint("relay.sent_before_cursor", "event_relay", partial(_before, _hook_store, "save")),
    Failpoint("relay.before_publish", "event_relay", partial(_before, _event_exchange, "_publish")),
    Failpoint("relay.published_before_cursor", "event_relay", partial(_before, _event_exchange, "_save")),
)
BY_NAME = {it.name: it for it in FAILPOINTS}
