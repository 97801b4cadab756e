"""Settings that processes share, from the environment or from files. Each process adds its own in its `settings.py`."""

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
# A retry looks up an id under each key, so each costs it a query.
_MAX_ORDER_ID_KEYS = 4
# The namespace also goes into Redis patterns and user names, so no character that has a meaning there.
NAMESPACE_PATTERN = r"^[a-zA-Z0-9._-]{1,40}$"
# Ten years. A timer's milliseconds must fit into 64 bits.
_MOST_SECONDS = 10 * 366 * 24 * 3600.0


def load(settings_type: type[S]) -> S:
    """Read the settings. Raises WrongSettings, which names each wrong one and quotes no secret."""
    known = _names(settings_type)
    if unknown := [*_unknown(settings_type, known)]:
        raise WrongSettings(*unknown)
    values = read_variables(known.values())
    try:
        return settings_type.model_validate({field: values[name] for field, name in known.items() if name in values})
    except ValidationError as error:
        raise WrongSettings(*_told(error, known)) from None


def load_or_exit(program: str, settings_type: type[S]) -> S:
    """Read the settings, or print a line on stderr for each wrong one and exit 78."""
    try:
        return load(settings_type)
    except WrongSettings as error:
        for problem in error.problems:
            print(f"{program}: {problem}", file=sys.stderr)
    sys.exit(EXIT_BAD_SETTINGS)


def namespace_of(order_id_key: str) -> str:
    """The prefix of Redis keys if REDIS_NAMESPACE is not set. It reveals nothing of the order id key."""
    return blake2b(order_id_key.encode(), digest_size=6, person=b"redis namespace").hexdigest()


def _names(settings_type: type[BaseSettings]) -> dict[str, str]:
    """The environment variable of each field, by the name that the model takes. Our own have the process's prefix."""
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
    """Rules for every setting. Errors show no value: it may be a secret."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, hide_input_in_errors=True)

    @model_validator(mode="after")
    def _times_are_possible(self) -> Self:
        for name, value in self:
            if name.endswith("_s") and isinstance(value, (int, float)) and value > _MOST_SECONDS:
                raise ValueError(f"{name} is longer than ten years")
        return self


class BrokerSettings(_Settings):
    """Settings for RabbitMQ."""

    # All nodes of a cluster, comma-separated: a process that loses one connects to another.
    amqp_url: Annotated[str, Field(validation_alias="AMQP_URL"), AfterValidator(check_brokers)]
    # A vanished peer is noticed after two to three heartbeats. At 60 s, the usual default, that is 3 minutes.
    amqp_heartbeat_s: int = Field(default=10, ge=1)
    # Longest wait for a confirm. A healthy broker answers in milliseconds, during a disk stall in one or two seconds.
    confirm_timeout_s: float = Field(default=5.0, gt=0)

    @property
    def amqp_urls(self) -> list[str]:
        return self.amqp_url.split(",")


class DatabaseSettings(_Settings):
    """Settings for PostgreSQL."""

    # One host, or all servers of which one takes writes, comma-separated: a process connects to the one that does.
    database_url: Annotated[
        str, Field(validation_alias="DATABASE_URL"), AfterValidator(check_database), AfterValidator(check_libpq)
    ]


class ProcessSettings(BrokerSettings, DatabaseSettings):
    """Settings of every process: its servers, its log, its end."""

    # `debug` adds a line for each batch.
    log_level: Annotated[str, Field(validation_alias="LOG_LEVEL", pattern="(?i)^(debug|info|warning|error)$")] = "info"

    # How long shutdown may take after SIGTERM before unfinished work is dropped. It was never acknowledged, so it costs
    # a redelivery and no order. Below the 30 s that most supervisors wait before they kill.
    stop_grace_s: float = Field(default=15.0, gt=0)


class PipelineSettings(ProcessSettings):
    """Addresses and the one shared secret, from the environment or files; wrong values stop the process at start.

    The addresses have no default on purpose: a process that silently talks to the wrong server is worse than one that
    does not start.
    """

    # A cache: with it away, orders are accepted, stored and decided.
    redis_url: Annotated[str, Field(validation_alias="REDIS_URL"), AfterValidator(check_redis)]
    # Signs order ids. Several keys, comma-separated, while one is replaced: the first mints, all recognise ids and find
    # the orders of retries. A key changed without that makes a retry a second order: see docs/operate/order-id-key.md.
    order_id_key: Annotated[
        SecretStr, Field(validation_alias="ORDER_ID_KEY", min_length=32), AfterValidator(_check_order_id_keys)
    ]
    # Prefix of every key in Redis, so that two deployments on one Redis share nothing. By default a digest of
    # ORDER_ID_KEY. Several keys need it set: the digest would change while they are replaced. It could also change back
    # to what Redis remembered before, which by then has a gap.
    redis_namespace: Annotated[str | None, Field(validation_alias="REDIS_NAMESPACE", pattern=NAMESPACE_PATTERN)] = None

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
        """The keys that sign order ids; the one that mints first."""
        return self.order_id_key.get_secret_value().split(",")

    @property
    def namespace(self) -> str:
        """The prefix of every key in Redis."""
        return f"{self.redis_namespace or namespace_of(self.order_id_keys[0])}:"
