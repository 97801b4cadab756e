"""Settings of persist_worker, from the environment: `PERSIST_WORKER_PORT=9101` and so on."""

from pydantic_settings import SettingsConfigDict

from pipeline.broker.worker_settings import Count, Port, Prefetch, SizeBytes, WorkerSettings


class PersistSettings(WorkerSettings):
    model_config = SettingsConfigDict(env_prefix="PERSIST_WORKER_", frozen=True, extra="ignore")

    port: Port = 9101

    # A COPY of 2,000 orders takes some 40 ms, so a failed one costs little to repeat.
    batch_max_orders: Count = 2_000
    # A batch becomes one message on orders.created; the broker takes 16 MiB.
    batch_max_bytes: SizeBytes = 1024**2
    # A delivery holds up to 500 orders of ingest_api, or one bulk request of up to 1,000.
    batch_max_deliveries: Count = 128
    # At 250 KB a delivery, that of a bulk request, at most 64 MB are prefetched.
    prefetch: Prefetch = 256
