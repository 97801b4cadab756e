"""What both workers read from their environment. Each gives its own numbers, with the reason, in its `settings.py`."""

from typing import Annotated, TypeAlias

from pydantic import Field, ValidationInfo, field_validator

from pipeline.broker.deliveries import BatchLimits
from pipeline.process.settings import PipelineSettings

Count: TypeAlias = Annotated[int, Field(ge=1)]
SizeBytes: TypeAlias = Annotated[int, Field(ge=1024)]
# AMQP has 16 bits for it.
Prefetch: TypeAlias = Annotated[int, Field(ge=1, le=65535)]
Port: TypeAlias = Annotated[int, Field(ge=0, le=65535)]


class WorkerSettings(PipelineSettings):
    # Health and metrics only.
    host: str = "127.0.0.1"
    port: Port

    batch_max_orders: Count
    batch_max_bytes: SizeBytes
    # Messages; each is already a batch of whoever published it.
    batch_max_deliveries: Count
    # Nobody waits for a worker's answer, and each batch costs broker, worker and database some 10 ms of CPU however
    # small it is.
    linger_ms: float = Field(default=25.0, ge=0)
    # Below the deliveries of a batch it would never close by size; twice, so that the next collects meanwhile.
    prefetch: Prefetch

    # How long a message is held, unacknowledged, while its batch cannot be written. Then it is given back, and nothing
    # is taken until that batch is written after all. Whoever holds one for 30 minutes loses its channel.
    batch_hold_s: float = Field(default=600.0, gt=0, le=1200)
    # Shorter than an API's: nobody waits for a worker's answer. A batch takes a tenth of a second, and what is not
    # finished comes again. `docker stop` waits 10 s and then kills, and hanging up on what is silent takes up to 2 s.
    stop_grace_s: float = Field(default=6.0, gt=0)

    @field_validator("prefetch")
    @classmethod
    def _two_batches(cls, prefetch: int, info: ValidationInfo) -> int:
        deliveries = info.data.get("batch_max_deliveries", 0)  # not there if it is wrong itself
        if prefetch < 2 * deliveries:
            raise ValueError(f"{prefetch} is below twice the {deliveries} deliveries of a batch (BATCH_MAX_DELIVERIES)")
        return prefetch

    def limits(self) -> BatchLimits:
        return BatchLimits(
            self.batch_max_orders,
            self.batch_max_bytes,
            self.batch_max_deliveries,
            self.linger_ms / 1000,
            self.batch_hold_s,
        )
