"""What every process reads from its environment. Each process adds its own in its `settings.py`.

A secret may be a file instead: where SECRETS_DIRECTORY names a directory, what the environment does not hold is read
from the file of its name there, as containers are given them (`/run/secrets/AMQP_URL`). An environment is shown by
`docker inspect` and handed on to every child; a file is neither.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

S = TypeVar("S", bound=BaseSettings)
# EX_CONFIG of sysexits.h: the settings are wrong, so a supervisor need not try again.
EXIT_BAD_SETTINGS = 78
_ONE_BROKER = r"amqps?://[^\s,]+"


def load(settings_type: type[S]) -> S:
    """Read them. Raises ValidationError, and NotADirectoryError for a SECRETS_DIRECTORY that is none."""
    directory = os.environ.get("SECRETS_DIRECTORY")
    if directory and not Path(directory).is_dir():
        raise NotADirectoryError(directory)
    known: dict[str, Any] = {"_secrets_dir": directory or None}
    return settings_type(**known)


def load_or_exit(program: str, settings_type: type[S]) -> S:
    """Read them, or say on stderr what is wrong, one line for each, and exit 78."""
    try:
        return load(settings_type)
    except NotADirectoryError as error:
        print(f"{program}: SECRETS_DIRECTORY: {error} is not a directory", file=sys.stderr)
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            name = ".".join(map(str, problem["loc"])) or "settings"
            if "." not in name and not name.isupper():
                name = f"{settings_type.model_config.get('env_prefix', '')}{name}".upper()
            print(f"{program}: {name}: {problem['msg']}", file=sys.stderr)
        print(
            f"{program}: set these in the environment, or in files of SECRETS_DIRECTORY; ./headrace up does it for you",
            file=sys.stderr,
        )
    sys.exit(EXIT_BAD_SETTINGS)


class BrokerSettings(BaseSettings):
    """What it takes to publish."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    # Of a cluster all nodes, with commas between: who loses one goes on to another.
    amqp_url: Annotated[str, Field(validation_alias="AMQP_URL", pattern=f"^{_ONE_BROKER}(,{_ONE_BROKER})*$")]
    # A peer that is gone without a word is noticed after two to three of these. 60 s, the usual default, is 3 minutes.
    amqp_heartbeat_s: int = Field(default=10, ge=1)
    # Longest wait for a broker's confirm. A healthy one answers in milliseconds, a disk stall in one or two seconds.
    confirm_timeout_s: float = Field(default=5.0, gt=0)

    @property
    def amqp_urls(self) -> list[str]:
        return self.amqp_url.split(",")


class DatabaseSettings(BaseSettings):
    """What it takes to reach PostgreSQL."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    database_url: Annotated[str, Field(validation_alias="DATABASE_URL", pattern="^postgres(ql)?://")]


class PipelineSettings(BrokerSettings, DatabaseSettings):
    """Addresses and the one shared secret, from the environment or files; wrong values stop the process at start.

    The addresses have no default on purpose: a process that quietly talks to the wrong
    server is worse than one that does not start.
    """

    redis_url: Annotated[str, Field(validation_alias="REDIS_URL", pattern="^(rediss?|unix)://")]
    # Signs order ids. All ingest_api processes share it; changing it turns "not stored yet" into 404 for ids in flight.
    order_id_key: Annotated[SecretStr, Field(validation_alias="ORDER_ID_KEY", min_length=32)]
    log_level: Annotated[str, Field(validation_alias="LOG_LEVEL", pattern="(?i)^(debug|info|warning|error)$")] = "info"

    # How long SIGTERM may take before what is left is dropped. Everything dropped was never acknowledged,
    # so it costs a redelivery and no order. Below the 30 s that most supervisors wait before they kill.
    stop_grace_s: float = Field(default=15.0, gt=0)
