"""Where settings come from: the environment, or files that stand for it."""

import itertools
from pathlib import Path

import pytest

from pipeline import broker, lifecycle
from pipeline.settings import BrokerSettings, PipelineSettings, load

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
    assert capsys.readouterr().err.startswith("worker: AMQP_URL: Field required\n")


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
