"""Settings of persist_worker, from the environment: `PERSIST_WORKER_PORT=9101` and so on."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from pipeline.batches import BatchLimits
from pipeline.settings import PipelineSettings


class PersistSettings(PipelineSettings):
    model_config = SettingsConfigDict(env_prefix="PERSIST_WORKER_", frozen=True, extra="ignore")

    # Health and metrics only.
    host: str = "127.0.0.1"
    port: int = Field(default=9101, ge=0, le=65535)

    # A COPY of 2,000 orders takes some 40 ms, so a failed one costs little to repeat.
    batch_max_orders: int = Field(default=2_000, ge=1)
    # A batch becomes one message on orders.created; the broker takes 16 MiB.
    batch_max_bytes: int = Field(default=1024**2, ge=1024)
    # Messages; each holds up to 500 orders of ingest_api's, or one bulk request of up to 1,000.
    batch_max_deliveries: int = Field(default=128, ge=1)
    # Nobody waits for this worker's answer, and each batch costs broker, worker and database some 10 ms of CPU however
    # small it is.
    linger_ms: float = Field(default=25.0, ge=0)
    # Twice the deliveries of a batch. At 250 KB each, a bulk request's, the worst backlog holds 64 MB here.
    prefetch: int = Field(default=256, ge=1)

    def limits(self) -> BatchLimits:
        return BatchLimits(
            self.batch_max_orders, self.batch_max_bytes, self.batch_max_deliveries, self.linger_ms / 1000
        )
