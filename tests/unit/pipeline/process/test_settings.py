"""Where settings come from: the environment, or files that stand for it."""

import itertools
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from ingest_api.settings import IngestSettings
from persist_worker.settings import PersistSettings
from pipeline.broker import connection as broker
from pipeline.process import lifecycle
from pipeline.process.settings import BrokerSettings, PipelineSettings, load
from pipeline.process.variables import WrongSettings
from product_api.settings import ProductSettings
from product_consumer.settings import ConsumerSettings

SECRETS = {
    "DATABASE_URL": "postgresql://u:secret@db:5432/x",
    "AMQP_URL": "amqp://u:secret@mq:5672/%2F",
    "REDIS_URL": "redis://:secret@cache:6379/0",
    "ORDER_ID_KEY": "6b" * 32,
}


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of secrets, and an environment that holds none."""
    for name, value in SECRETS.items():
        monkeypatch.delenv(name, raising=False)
        (tmp_path / name).write_text(value + "\n")
    monkeypatch.setenv("SECRETS_DIRECTORY", str(tmp_path))
    return tmp_path


def test_a_secret_may_be_a_file(secrets: Path) -> None:
    settings = load(PipelineSettings)
    assert settings.database_url == SECRETS["DATABASE_URL"]
    assert settings.amqp_url == SECRETS["AMQP_URL"]
    assert settings.redis_url == SECRETS["REDIS_URL"]
    assert settings.order_id_key.get_secret_value() == SECRETS["ORDER_ID_KEY"]


def test_the_environment_goes_before_a_file(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMQP_URL", "amqp://other/")
    assert load(PipelineSettings).amqp_url == "amqp://other/"


async def never(*_: object) -> None:
    raise AssertionError("it started")


def test_a_directory_of_secrets_that_is_none_is_one_line_and_exit_78(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECRETS_DIRECTORY", str(secrets / "nothing"))
    with pytest.raises(SystemExit) as ended:
        lifecycle.run("worker", PipelineSettings, never)
    assert ended.value.code == 78
    assert capsys.readouterr().err == f"worker: SECRETS_DIRECTORY: {secrets}/nothing is not a directory\n"


def test_a_secret_that_is_missing_is_named(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (secrets / "AMQP_URL").unlink()
    with pytest.raises(SystemExit):
        lifecycle.run("worker", PipelineSettings, never)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("worker: AMQP_URL: is not set")
    assert "SECRETS_DIRECTORY" in line


def test_all_nodes_of_a_cluster_are_tried_in_turn() -> None:
    urls = [f"amqp://u:p@mq{number}:5672/%2F" for number in range(3)]
    settings = BrokerSettings.model_validate({"AMQP_URL": ",".join(urls)})
    assert settings.amqp_urls == urls
    seen = list(itertools.islice(broker._nodes(settings.amqp_urls), 7))
    assert set(seen[:3]) == set(urls)
    assert seen == (seen[:3] * 3)[:7]


def test_clients_of_a_cluster_spread_over_its_nodes() -> None:
    urls = ["amqp://a/", "amqp://b/", "amqp://c/"]
    assert {next(broker._nodes(urls)) for _ in range(200)} == set(urls)


def test_each_node_of_a_cluster_gets_little_time_once_and_a_single_broker_never_less() -> None:
    assert [broker.patience_s(5, attempt, 3) for attempt in range(5)] == [2, 2, 2, 5, 5]
    assert [broker.patience_s(5, attempt, 1) for attempt in range(2)] == [5, 5]
    assert broker.patience_s(0.5, 0, 3) == 0.5


@pytest.mark.parametrize("bad", ["amqp://a/,", "amqp://a/,http://b/", ",amqp://a/", "amqp://a/ amqp://b/", "amqp://"])
def test_a_list_of_nodes_that_is_none_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="AMQP_URL"):
        BrokerSettings.model_validate({"AMQP_URL": bad})


def refused(settings_type: type[BaseSettings], monkeypatch: pytest.MonkeyPatch, **environment: str) -> tuple[str, ...]:
    """What is told of these settings, beside good ones."""
    monkeypatch.delenv("SECRETS_DIRECTORY", raising=False)
    for name, value in {**SECRETS, **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(WrongSettings) as error:
        load(settings_type)
    return error.value.problems


@pytest.mark.parametrize(
    ("settings_type", "name", "meant"),
    [
        (IngestSettings, "INGEST_API_MAX_WAITING_ORDER", "INGEST_API_MAX_WAITING_ORDERS"),
        (IngestSettings, "ingest_api_prot", "INGEST_API_PORT"),
        (PersistSettings, "PERSIST_WORKER_LINGER", "PERSIST_WORKER_LINGER_MS"),
        (ConsumerSettings, "PRODUCT_CONSUMER_PREFECTH", "PRODUCT_CONSUMER_PREFETCH"),
        (ProductSettings, "PRODUCT_API_DATABASE_READER", "PRODUCT_API_DATABASE_READERS"),
        (ProductSettings, "PRODUCT_API_DATABASE_URL", None),
        (IngestSettings, "INGEST_API_ZZZZZZ", None),
        (IngestSettings, "INGEST_API_", None),
    ],
)
def test_a_name_that_nothing_reads_is_refused_with_the_nearest_right_one(
    settings_type: type[BaseSettings], name: str, meant: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (told,) = refused(settings_type, monkeypatch, **{name: "s3cret"})
    assert told.startswith(f"{name}: is not a setting; ")
    assert meant is None or told.endswith(f"did you mean {meant}?")
    assert "s3cret" not in told


def test_a_file_of_secrets_with_a_name_that_nothing_reads_is_refused(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (secrets / "INGEST_API_MAX_WAITING_ORDER").write_text("7")
    with pytest.raises(WrongSettings, match="did you mean INGEST_API_MAX_WAITING_ORDERS"):
        load(IngestSettings)
    (secrets / "INGEST_API_MAX_WAITING_ORDER").rename(secrets / "INGEST_API_MAX_WAITING_ORDERS")
    with pytest.raises(WrongSettings, match="must hold at least one full group"):
        load(IngestSettings)
    (secrets / "INGEST_API_MAX_WAITING_ORDERS").unlink()
    (secrets / "DATABASE_PASSWORD").write_text("of somebody else")
    load(IngestSettings)


@pytest.mark.parametrize(
    "name",
    [
        "INGEST_API_URL",
        "INGEST_API_SERVICE_HOST",
        "INGEST_API_SERVICE_PORT",
        "INGEST_API_SERVICE_PORT_HTTP",
        "INGEST_API_PORT_8080_TCP",
        "INGEST_API_PORT_8080_TCP_ADDR",
        "INGEST_API_PRIVATE_SERVICE_HOST",
        "INGEST_API_PRIVATE_PORT_9100_TCP_PROTO",
        "INGEST_API_NAME",
        "INGEST_API_ENV_PATH",
        "PRODUCT_API_MAX_WAITING_ORDER",
        "MY_INGEST_API_THING",
    ],
)
def test_what_others_put_into_an_environment_is_left_alone(
    name: str, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "x")
    monkeypatch.setenv("INGEST_API_PRIVATE_PORT", "tcp://10.0.0.1:9100")
    load(IngestSettings)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("DATABASE_URL", "postgresql://u:p#s3cret@db/d", "%23"),
        ("DATABASE_URL", "postgresql://u:s3cret@db/d?connect_timeout=10", "connect_timeout"),
        ("AMQP_URL", "amqp://u:s3cret@mq:x/v", "port"),
        ("REDIS_URL", "redis://:s3cret@cache?decode_responses=True", "decode_responses"),
        ("REDIS_URL", "redis://:s3cret@cache ", "white space"),
        ("REDIS_URL", " redis://:s3cret@cache", "white space"),
        ("REDIS_URL", "redis://:s3cret@cache\n", "white space"),
        ("REDIS_URL", "redis://:s3\ncret@cache", "control character"),
        ("REDIS_URL", "redis://:s3cret\udcff@cache", "no UTF-8"),
        ("REDIS_URL", "", "is empty"),
        ("ORDER_ID_KEY", "s3cret", "at least 32"),
        ("ORDER_ID_KEY", "s3cret" * 10 + "\n", "white space"),
        ("LOG_LEVEL", "loud", "(?i)"),
        ("API_KEYS_FILE", "", "is empty"),
        ("INGEST_API_PORT", "", "is empty"),
        ("INGEST_API_PORT", "8080 ", "white space"),
        ("INGEST_API_PORT", "tcp://10.0.0.1:8080", "integer"),
        ("INGEST_API_PORT", "65536", "65535"),
        ("INGEST_API_CATALOGUE_TTL_S", "nan", "finite"),
        ("INGEST_API_STOP_GRACE_S", "inf", "finite"),
        ("INGEST_API_STOP_GRACE_S", "1e300", "ten years"),
    ],
)
def test_a_wrong_value_is_one_line_without_a_secret(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = refused(IngestSettings, monkeypatch, **{name: value})
    assert told in line
    assert not any(part in line for part in ("s3", "cret", "\n"))
    assert line.startswith(f"{name}: ") or "ten years" in line


def test_all_that_is_wrong_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(refused(IngestSettings, monkeypatch, DATABASE_URL="", REDIS_URL="", LOG_LEVEL=" info")) == 3
    assert len(refused(IngestSettings, monkeypatch, DATABASE_URL="x", REDIS_URL="y", LOG_LEVEL="z")) == 3


@pytest.mark.parametrize(
    ("content", "told"), [(b"", "is empty"), (b"\xff", "no UTF-8"), (b"a\nb", "control character")]
)
def test_a_file_that_holds_no_value_is_named(secrets: Path, content: bytes, told: str) -> None:
    (secrets / "REDIS_URL").write_bytes(content)
    with pytest.raises(WrongSettings, match=f"^REDIS_URL: .*{told}"):
        load(PipelineSettings)


def test_a_file_that_cannot_be_read_is_named(secrets: Path) -> None:
    (secrets / "REDIS_URL").unlink()
    (secrets / "REDIS_URL").mkdir()
    with pytest.raises(WrongSettings, match=r"^REDIS_URL: .* cannot be read: Is a directory"):
        load(PipelineSettings)


def test_an_error_of_the_settings_never_holds_a_value() -> None:
    """Whoever builds them otherwise, and prints what is raised."""
    with pytest.raises(ValueError, match="DATABASE_URL") as error:
        PipelineSettings.model_validate({**SECRETS, "DATABASE_URL": "postgresql://u:s3#cret@db/d"})
    assert "cret" not in str(error.value)


def test_several_keys_of_order_ids_are_long_enough_come_once_and_need_a_namespace_that_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, new = "6b" * 32, "7c" * 32
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    alone = load(PipelineSettings).namespace
    monkeypatch.setenv("REDIS_NAMESPACE", "ours")
    for text in (old, f"{old},{new}", f"{new},{old}", new):
        monkeypatch.setenv("ORDER_ID_KEY", text)
        settings = load(PipelineSettings)
        assert settings.order_id_keys == text.split(",")
        assert settings.namespace == "ours:"  # Redis keeps its meaning while keys are replaced
    monkeypatch.delenv("REDIS_NAMESPACE")
    for text in (f"{old},{new}", f"{new},{old}"):  # a digest would move, and back
        monkeypatch.setenv("ORDER_ID_KEY", text)
        with pytest.raises(WrongSettings) as wrong:
            load(PipelineSettings)
        (line,) = wrong.value.problems
        assert "REDIS_NAMESPACE is not set" in line
        assert alone.rstrip(":") in line
        assert old not in line
    monkeypatch.setenv("REDIS_NAMESPACE", "ours")
    for bad in (f"{new},", f"{old},{old}", f"{new},short", ",".join(f"{number}{old}" for number in range(5))):
        monkeypatch.setenv("ORDER_ID_KEY", bad)
        with pytest.raises(WrongSettings) as wrong:
            load(PipelineSettings)
        assert old not in str(wrong.value)
