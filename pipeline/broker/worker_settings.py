"""Settings that both workers share. Each sets its own numbers, with the reason, in its `settings.py`."""

from typing import Annotated, TypeAlias

from pydantic import Field, ValidationInfo, field_validator

from pipeline.broker.deliveries import BatchLimits
from pipeline.process.settings import PipelineSettings

Count: TypeAlias = Annotated[int, Field(ge=1)]
SizeBytes: TypeAlias = Annotated[int, Field(ge=1024)]
# AMQP gives it 16 bits.
Prefetch: TypeAlias = Annotated[int, Field(ge=1, le=65535)]
Port: TypeAlias = Annotated[int, Field(ge=0, le=65535)]


class WorkerSettings(PipelineSettings):
    # For health and metrics only.
    host: str = "127.0.0.1"
    port: Port

    batch_max_orders: Count
    batch_max_bytes: SizeBytes
    # Messages; each is already a batch of its publisher.
    batch_max_deliveries: Count
    # Nobody waits for a worker's answer, and each batch, however small, costs broker, worker and database some 10 ms
    # of CPU.
    linger_ms: float = Field(default=25.0, ge=0)
    # Below the deliveries of a batch, no batch would close by size. Twice, so that the next batch collects meanwhile.
    prefetch: Prefetch

    # How long a worker holds messages while their batch cannot be written. Then it returns them to the broker, and
    # consumes nothing until that batch is written. The broker closes the channel of a consumer after 30 minutes.
    batch_hold_s: float = Field(default=600.0, gt=0, le=1200)
    # Shorter than an API's: nobody waits for a worker's answer. A batch takes a tenth of a second, and an unfinished
    # one is redelivered. `docker stop` waits 10 s and then kills, and closing a silent connection takes up to 2 s.
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
