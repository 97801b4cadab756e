"""Passwords for containers: made once, each where its reader looks, the same on both sides."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipeline.settings import PipelineSettings, load
from stack import compose_secrets

DIRECTORIES = ("services", "postgres", "rabbitmq", "redis", "grafana")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in DIRECTORIES:
        (tmp_path / name).mkdir()
    return tmp_path


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_services_and_servers_are_told_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compose_secrets.write(root, {})
    for name in ("DATABASE_URL", "AMQP_URL", "REDIS_URL", "ORDER_ID_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SECRETS_DIRECTORY", str(root / "services"))
    settings = load(PipelineSettings)
    assert urlsplit(settings.database_url).password == (root / "postgres" / "password").read_text().strip()
    broker = (root / "rabbitmq" / "10-user.conf").read_text()
    assert f"default_pass = {urlsplit(settings.amqp_url).password}\n" in broker
    cache = (root / "redis" / "redis.conf").read_text()
    assert f"requirepass {urlsplit(settings.redis_url).password}\n" in cache


def test_a_second_start_changes_nothing(root: Path) -> None:
    compose_secrets.write(root, {})
    before = contents(root)
    compose_secrets.write(root, {})
    assert contents(root) == before


def test_what_a_killed_job_left_out_is_made_up_for(root: Path) -> None:
    compose_secrets.write(root, {})
    before = contents(root)
    for name in ("redis/redis.conf", "services/AMQP_URL"):
        (root / name).unlink()
    compose_secrets.write(root, {})
    assert contents(root) == before


def test_two_stacks_share_no_password(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    for name in DIRECTORIES:
        (other / name).mkdir()
    compose_secrets.write(root, {})
    compose_secrets.write(other, {})
    ours, theirs = (set(re.findall(r"[0-9a-f]{32,}", " ".join(contents(each).values()))) for each in (root, other))
    assert len(ours) == len(theirs) == 6, "five passwords and a cookie"
    assert not ours & theirs


def test_only_services_are_told_how_order_ids_are_signed(root: Path) -> None:
    compose_secrets.write(root, {})
    key = (root / "services" / "ORDER_ID_KEY").read_text().strip()
    told = {name.split("/")[0] for name, text in contents(root).items() if key in text}
    assert told == {"services"}


def test_of_a_cluster_services_are_told_all_nodes(root: Path) -> None:
    compose_secrets.write(root, {"BROKERS": "mq1,mq2,mq3"})
    urls = (root / "services" / "AMQP_URL").read_text().strip().split(",")
    assert [urlsplit(url).hostname for url in urls] == ["mq1", "mq2", "mq3"]
