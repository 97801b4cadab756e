"""Settings of product_consumer, from the environment: `PRODUCT_CONSUMER_PORT=9102` and so on."""

from pydantic_settings import SettingsConfigDict

from pipeline.broker.worker_settings import Count, Port, Prefetch, SizeBytes, WorkerSettings


class ConsumerSettings(WorkerSettings):
    model_config = SettingsConfigDict(env_prefix="PRODUCT_CONSUMER_", frozen=True, extra="ignore")

    port: Port = 9102

    # A batch holds the locks on its products while it runs: some 60 ms for this many orders.
    batch_max_orders: Count = 4_000
    # Two of persist_worker's largest messages.
    batch_max_bytes: SizeBytes = 2 * 1024**2
    # Each is a batch of persist_worker, so they are few and large.
    batch_max_deliveries: Count = 16
    # At 1 MiB a delivery, persist_worker's largest, at most 32 MB are prefetched.
    prefetch: Prefetch = 32
