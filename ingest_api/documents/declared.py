"""Records what the processes declare at the broker, instead of sending it: for the AsyncAPI document."""

from dataclasses import dataclass, field
from typing import Any, cast

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel

from pipeline.contract import topology
from pipeline.process.coroutines import run_without_waiting


@dataclass(frozen=True)
class Exchange:
    name: str
    type: str
    durable: bool


@dataclass(frozen=True)
class Queue:
    name: str
    """"" for one that the broker names."""
    durable: bool
    exclusive: bool
    auto_delete: bool
    arguments: dict[str, Any]
    bindings: list[tuple[str, str]] = field(default_factory=list)
    """Exchange and routing key of each."""

    async def bind(self, exchange: str, routing_key: str) -> None:
        if (exchange, routing_key) not in self.bindings:  # declaring it again binds it again
            self.bindings.append((exchange, routing_key))


class Declared:
    """Exchanges and queues by name, as all that `topology` declares would leave them at a new broker."""

    def __init__(self) -> None:
        self.exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, Queue] = {}
        channel = cast("AbstractChannel", self)
        for declaring in (
            topology.declare_accepted(channel),
            topology.declare_created(channel),
            topology.declare_cancel_requested(channel),
            topology.declare_product_events(channel),
            topology.declare_events(channel),
        ):
            run_without_waiting(declaring)

    # The methods of a channel that topology calls.

    async def declare_exchange(self, name: str, type_: ExchangeType, *, durable: bool = False) -> None:
        self.exchanges[name] = Exchange(name, type_.value, durable)

    async def declare_queue(
        self,
        name: str = "",
        *,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> Queue:
        return self.queues.setdefault(name, Queue(name, durable, exclusive, auto_delete, arguments or {}))
