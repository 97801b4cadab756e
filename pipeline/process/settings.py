"""What every process reads from its environment, or from files. Each process adds its own in its `settings.py`."""

import os
import sys
from collections.abc import Iterator
from hashlib import blake2b
from typing import Annotated, Self, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.process.addresses import check_brokers, check_database, check_libpq, check_redis
from pipeline.process.variables import WrongSettings, read_variables, secret_files, unknown_names

S = TypeVar("S", bound=BaseSettings)
# EX_CONFIG of sysexits.h: the settings are wrong, so a supervisor need not try again.
EXIT_BAD_SETTINGS = 78
# Each is tried on a retry, so each costs it a question about another id.
_MAX_ORDER_ID_KEYS = 4
# Also part of patterns and of names of users in Redis, so nothing that has a meaning there.
NAMESPACE_PATTERN = r"^[a-zA-Z0-9._-]{1,40}$"
# Ten years. Timers take no more than a number of milliseconds that fits into 64 bits.
_MOST_SECONDS = 10 * 366 * 24 * 3600.0


def load(settings_type: type[S]) -> S:
    """Read them. Raises WrongSettings, which names each that is wrong and quotes no secret."""
    known = _names(settings_type)
    if unknown := [*_unknown(settings_type, known)]:
        raise WrongSettings(*unknown)
    values = read_variables(known.values())
    try:
        return settings_type.model_validate({field: values[name] for field, name in known.items() if name in values})
    except ValidationError as error:
        raise WrongSettings(*_told(error, known)) from None


def load_or_exit(program: str, settings_type: type[S]) -> S:
    """Read them, or say on stderr what is wrong, one line for each, and exit 78."""
    try:
        return load(settings_type)
    except WrongSettings as error:
        for problem in error.problems:
            print(f"{program}: {problem}", file=sys.stderr)
    sys.exit(EXIT_BAD_SETTINGS)


def namespace_of(order_id_key: str) -> str:
    """What keys in Redis begin with when REDIS_NAMESPACE is not set. It tells nothing of the key."""
    return blake2b(order_id_key.encode(), digest_size=6, person=b"redis namespace").hexdigest()


def _names(settings_type: type[BaseSettings]) -> dict[str, str]:
    """The variable of each field, by what the model takes it as: names of our own have the process's prefix."""
    prefix = settings_type.model_config.get("env_prefix", "")
    return {
        str(field.validation_alias or name): str(field.validation_alias or f"{prefix}{name}".upper())
        for name, field in settings_type.model_fields.items()
    }


def _unknown(settings_type: type[BaseSettings], known: dict[str, str]) -> Iterator[str]:
    prefix = settings_type.model_config.get("env_prefix", "")
    if prefix:
        given = {**dict.fromkeys(secret_files(), ""), **os.environ}
        yield from unknown_names(given, prefix, set(known.values()))


def _told(error: ValidationError, known: dict[str, str]) -> Iterator[str]:
    for problem in error.errors(include_input=False, include_url=False):
        field = ".".join(map(str, problem["loc"]))
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            text = "is not set; set it, or put it into a file of SECRETS_DIRECTORY; ./headrace up does it for you"
        yield f"{known.get(field, field) or 'settings'}: {text}"


def _check_order_id_keys(value: SecretStr) -> SecretStr:
    keys = value.get_secret_value().split(",")
    if any(len(key) < 32 for key in keys):
        raise ValueError("each key must have at least 32 characters")
    if len(set(keys)) < len(keys) or len(keys) > _MAX_ORDER_ID_KEYS:
        raise ValueError(f"1 to {_MAX_ORDER_ID_KEYS} keys with commas between, each once")
    return value


class _Settings(BaseSettings):
    """Bounds that hold for every setting. An error shows no value: it may be a secret."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, hide_input_in_errors=True)

    @model_validator(mode="after")
    def _times_are_possible(self) -> Self:
        for name, value in self:
            if name.endswith("_s") and isinstance(value, (int, float)) and value > _MOST_SECONDS:
                raise ValueError(f"{name} is longer than ten years")
        return self


class BrokerSettings(_Settings):
    """What it takes to publish."""

    # Of a cluster all nodes, with commas between: who loses one goes on to another.
    amqp_url: Annotated[str, Field(validation_alias="AMQP_URL"), AfterValidator(check_brokers)]
    # A peer that is gone without a word is noticed after two to three of these. 60 s, the usual default, is 3 minutes.
    amqp_heartbeat_s: int = Field(default=10, ge=1)
    # Longest wait for a broker's confirm. A healthy one answers in milliseconds, a disk stall in one or two seconds.
    confirm_timeout_s: float = Field(default=5.0, gt=0)

    @property
    def amqp_urls(self) -> list[str]:
        return self.amqp_url.split(",")


class DatabaseSettings(_Settings):
    """What it takes to reach PostgreSQL."""

    database_url: Annotated[
        str, Field(validation_alias="DATABASE_URL"), AfterValidator(check_database), AfterValidator(check_libpq)
    ]


class PipelineSettings(BrokerSettings, DatabaseSettings):
    """Addresses and the one shared secret, from the environment or files; wrong values stop the process at start.

    The addresses have no default on purpose: a process that quietly talks to the wrong
    server is worse than one that does not start.
    """

    redis_url: Annotated[str, Field(validation_alias="REDIS_URL"), AfterValidator(check_redis)]
    # Signs order ids. Several, with commas between, while one is replaced: the first mints, all recognise ids and find
    # the orders of retries. Changed without that, a retry is a second order: docs/operations.md says how it is done.
    order_id_key: Annotated[
        SecretStr, Field(validation_alias="ORDER_ID_KEY", min_length=32), AfterValidator(_check_order_id_keys)
    ]
    # What every key in Redis begins with, so that two deployments on one Redis share nothing. Without it, a digest of
    # ORDER_ID_KEY. Several keys need it: a digest would move while they are replaced, and back to what Redis remembered
    # before, which by then has a gap.
    redis_namespace: Annotated[str | None, Field(validation_alias="REDIS_NAMESPACE", pattern=NAMESPACE_PATTERN)] = None
    log_level: Annotated[str, Field(validation_alias="LOG_LEVEL", pattern="(?i)^(debug|info|warning|error)$")] = "info"

    # How long SIGTERM may take before what is left is dropped. Everything dropped was never acknowledged,
    # so it costs a redelivery and no order. Below the 30 s that most supervisors wait before they kill.
    stop_grace_s: float = Field(default=15.0, gt=0)

    @model_validator(mode="after")
    def _namespace_stays(self) -> Self:
        if self.redis_namespace is None and len(self.order_id_keys) > 1:
            now = " or ".join(
                f"{namespace_of(key)} (of key {place})" for place, key in enumerate(self.order_id_keys, 1)
            )
            raise ValueError(
                "REDIS_NAMESPACE is not set, and ORDER_ID_KEY has several keys: set it to one value for all services,"
                f" and keep it; what is in use until now is, of the key that was alone, {now}"
            )
        return self

    @property
    def order_id_keys(self) -> list[str]:
        """The one that mints first."""
        return self.order_id_key.get_secret_value().split(",")

    @property
    def namespace(self) -> str:
        """What every key in Redis begins with."""
        return f"{self.redis_namespace or namespace_of(self.order_id_keys[0])}:"
