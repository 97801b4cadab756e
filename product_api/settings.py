"""Settings of product_api, from the environment: `PRODUCT_API_PORT=3000` and so on."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from web.access.settings import WEB_ADDRESS, ApiSettings
from web.serving.server import MAX_CONNECTIONS


class ProductSettings(ApiSettings):
    model_config = SettingsConfigDict(env_prefix="PRODUCT_API_", frozen=True, extra="ignore")

    # The port for clients. 0: any free port.
    port: int = Field(default=3000, ge=0, le=65535)
    # The health listener's, for probes and Prometheus.
    health_port: int = Field(default=9104, ge=0, le=65535)
    # Idle ones included. Past it, 503. Each is an open file, which the system must allow.
    max_connections: int = Field(default=MAX_CONNECTIONS, ge=1)
    # Where people find ingest_api: a link on the page at `/`. ./headrace up and docker-compose.yml set it.
    orders_url: str = Field(default="", pattern=WEB_ADDRESS)

    # The largest product that is allowed takes about 2 KiB: 200 characters of name, each escaped.
    max_body_bytes: int = Field(default=64 * 1024, ge=1024)

    # Database connections. Two pools, because a write waits for its row's lock with a connection in hand. With one
    # pool, 24 restocks of a locked product made the reads of all others wait for 2 s.
    # Of the readers, one checks that PostgreSQL works, a third read lists, and the others read single products.
    database_readers: int = Field(default=4, ge=3)
    database_writers: int = Field(default=6, ge=1)
    # For a read or a whole transaction, waiting for a connection and for the row's lock included. Then 503.
    database_timeout_s: float = Field(default=2.0, gt=0)

    # How long a write waits for the confirm of its event. Then it is answered in any case: events are hints.
    event_wait_s: float = Field(default=0.5, ge=0)
