"""What every process reads from its environment. Each process adds its own in its `settings.py`."""

from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class BrokerSettings(BaseSettings):
    """What it takes to publish."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    amqp_url: Annotated[str, Field(validation_alias="AMQP_URL", pattern="^amqps?://")]
    # A peer that is gone without a word is noticed after two to three of these. 60 s, the usual default, is 3 minutes.
    amqp_heartbeat_s: int = Field(default=10, ge=1)
    # Longest wait for a broker's confirm. A healthy one answers in milliseconds, a disk stall in one or two seconds.
    confirm_timeout_s: float = Field(default=5.0, gt=0)


class PipelineSettings(BrokerSettings):
    """Addresses and the one shared secret. Environment only; frozen; wrong values stop the process at start.

    The addresses have no default on purpose: a process that quietly talks to the wrong
    server is worse than one that does not start.
    """

    database_url: Annotated[str, Field(validation_alias="DATABASE_URL", pattern="^postgres(ql)?://")]
    redis_url: Annotated[str, Field(validation_alias="REDIS_URL", pattern="^(rediss?|unix)://")]
    # Signs order ids. All ingest_api processes share it; changing it turns "not stored yet" into 404 for ids in flight.
    order_id_key: Annotated[SecretStr, Field(validation_alias="ORDER_ID_KEY", min_length=32)]
    log_level: Annotated[str, Field(validation_alias="LOG_LEVEL", pattern="(?i)^(debug|info|warning|error)$")] = "info"

    # How long SIGTERM may take before what is left is dropped. Everything dropped was never acknowledged,
    # so it costs a redelivery and no order. Below the 30 s that most supervisors wait before they kill.
    stop_grace_s: float = Field(default=15.0, gt=0)
