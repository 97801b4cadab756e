"""What the environment names: servers, by variables or by files, and stacks that run elsewhere."""

from pathlib import Path

import pytest

from stack.errors import HeadraceError
from stack.home.directory import Home
from stack.home.environment import external_urls, named_stack
from stack.run.status import running_urls

DATABASE, BROKER = "postgresql://u:p@db:5432/d", "amqp://u:p@mq:5672/%2F"
STACK = {"INGEST_API_URL": "http://a:8080", "PRODUCT_API_URL": "http://b:3000"}
NAMES = {"ingest_api": "http://a:8080", "product_api": "http://b:3000", "database": DATABASE, "broker": BROKER}


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "AMQP_URL", "REDIS_URL", "SECRETS_DIRECTORY", *STACK):
        monkeypatch.delenv(name, raising=False)


def test_a_server_may_be_named_by_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRETS_DIRECTORY", str(tmp_path))
    assert external_urls() == {}
    (tmp_path / "DATABASE_URL").write_text(DATABASE + "\n")
    assert external_urls() == {"postgres": DATABASE}


@pytest.mark.parametrize("url", ["amqp://a/,amqp://b:5673/", "amqps://u:p@a/%2F,amqp://b/%2F,amqp://c/%2F"])
def test_a_broker_may_be_the_nodes_of_a_cluster(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMQP_URL", url)
    assert external_urls() == {"rabbitmq": url}


@pytest.mark.parametrize(
    ("name", "url"),
    [("AMQP_URL", "amqp://a/,"), ("AMQP_URL", "amqp://a/,http://b/"), ("REDIS_URL", "redis://a:x,redis://b:1")],
)
def test_what_is_no_list_of_nodes_is_refused(name: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, url)
    with pytest.raises(HeadraceError, match=f"{name} is not a usable URL"):
        external_urls()


def test_a_stack_elsewhere_is_the_running_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, url in {**STACK, "DATABASE_URL": DATABASE, "AMQP_URL": BROKER}.items():
        monkeypatch.setenv(name, url)
    assert running_urls(Home(tmp_path)) == NAMES


def test_a_stack_that_is_named_by_half_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert named_stack() is None
    monkeypatch.setenv("INGEST_API_URL", STACK["INGEST_API_URL"])
    monkeypatch.setenv("AMQP_URL", BROKER)
    with pytest.raises(HeadraceError, match="the environment names a stack without PRODUCT_API_URL and DATABASE_URL"):
        named_stack()
