"""Settings of product_consumer, from the environment: `PRODUCT_CONSUMER_PORT=9102` and so on."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from pipeline.batches import BatchLimits
from pipeline.settings import PipelineSettings


class ConsumerSettings(PipelineSettings):
    model_config = SettingsConfigDict(env_prefix="PRODUCT_CONSUMER_", frozen=True, extra="ignore")

    # Health and metrics only.
    host: str = "127.0.0.1"
    port: int = Field(default=9102, ge=0, le=65535)

    # The locks on a batch's products are held for as long as the batch takes: some 60 ms for this many orders.
    batch_max_orders: int = Field(default=4_000, ge=1)
    batch_max_bytes: int = Field(default=2 * 1024**2, ge=1024)
    # Messages; each is already a batch of persist_worker's.
    batch_max_deliveries: int = Field(default=16, ge=1)
    linger_ms: float = Field(default=25.0, ge=0)
    # Twice the deliveries of a batch. At 1 MiB each, persist_worker's largest, the worst backlog holds 32 MB here.
    prefetch: int = Field(default=32, ge=1)

    def limits(self) -> BatchLimits:
        return BatchLimits(
            self.batch_max_orders, self.batch_max_bytes, self.batch_max_deliveries, self.linger_ms / 1000
        )
