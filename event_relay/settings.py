"""Settings of event_relay, from the environment: `EVENT_RELAY_PORT=9105` and so on."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from pipeline.broker.worker_settings import Port
from pipeline.process.settings import ProcessSettings


class RelaySettings(ProcessSettings):
    model_config = SettingsConfigDict(env_prefix="EVENT_RELAY_", frozen=True, extra="ignore")

    # For health and metrics only.
    host: str = "127.0.0.1"
    port: Port = 9105

    # Allows webhooks to private, loopback and link-local addresses. Anybody who can add a hook can then reach every
    # server of the network. Set it only on your own machine.
    allow_private_addresses: bool = False

    # Of its pool, for reading the log and moving cursors. Two more listen.
    database_connections: int = Field(default=3, ge=1)

    # For PostgreSQL to answer. A page of events takes it some 10 ms.
    database_timeout_s: float = Field(default=2.0, gt=0)

    # As the workers': a request without an answer is sent again, so a longer stop gains nothing.
    stop_grace_s: float = Field(default=6.0, gt=0)
