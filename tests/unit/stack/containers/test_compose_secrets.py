"""Passwords for containers: made once, each where its reader looks, the same on both sides."""

import base64
import hashlib
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from migrations.privileges import passwords_in
from pipeline.process.settings import PipelineSettings, load
from stack.containers import compose_secrets
from stack.home.credentials import rotate_order_ids

TOLD = ("ingest_api", "persist_worker", "product_consumer", "product_api")
DIRECTORIES = (
    "services",
    "accounts",
    "migrate",
    "tools",
    *TOLD,
    "event_relay",
    "postgres",
    "rabbitmq",
    "redis",
    "grafana",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in DIRECTORIES:
        (tmp_path / name).mkdir()
    return tmp_path


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("service", TOLD)
def test_services_and_servers_are_told_the_same(root: Path, monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    compose_secrets.write(root, {})
    for name in ("DATABASE_URL", "AMQP_URL", "REDIS_URL", "ORDER_ID_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SECRETS_DIRECTORY", str(root / service))
    settings = load(PipelineSettings)
    database = urlsplit(settings.database_url)
    assert (database.username, database.password) == (
        f"headrace_{service}",
        passwords_in(root / "accounts")[service],
    )
    users = json.loads((root / "rabbitmq" / "definitions.json").read_text())["users"]
    (user,) = [it for it in users if it["name"] == service]
    hashed = base64.b64decode(user["password_hash"])
    password = urlsplit(settings.amqp_url).password or ""
    assert hashed[4:] == hashlib.sha256(hashed[:4] + password.encode()).digest()
    cache = urlsplit(settings.redis_url)
    hashed_password = hashlib.sha256((cache.password or "").encode()).hexdigest()
    configured = (root / "redis" / "redis.conf").read_text()
    assert f"user {cache.username} reset on #{hashed_password} resetchannels" in configured
    assert f"~{settings.namespace}claim:*" in configured


def test_no_service_is_told_what_makes_it_an_administrator_or_another_service(root: Path) -> None:
    compose_secrets.write(root, {})
    admin = (root / "postgres" / "password").read_text().strip()
    master = json.loads((root / "services" / "credentials.json").read_text())
    secrets = {
        name: set(re.findall(r"(?<=:)[0-9a-f]{32}(?=@)", " ".join(it.read_text() for it in (root / name).iterdir())))
        for name in (*TOLD, "tools", "migrate")
    }
    for name, own in secrets.items():
        assert not own & {admin, master["postgres"], master["rabbitmq"], master["redis"]}
        others = set().union(*(them for other, them in secrets.items() if other != name))
        assert not own & others, name
    assert {it["tags"] == [] for it in json.loads((root / "rabbitmq" / "definitions.json").read_text())["users"]} == {
        True
    }


def test_what_all_services_mounted_before_is_gone(root: Path) -> None:
    (root / "services" / "DATABASE_URL").write_text("postgresql://headrace:x@postgres/headrace")
    compose_secrets.write(root, {})
    assert [it.name for it in (root / "services").iterdir()] == ["credentials.json"]


def test_a_second_start_changes_nothing(root: Path) -> None:
    compose_secrets.write(root, {})
    before = contents(root)
    compose_secrets.write(root, {})
    assert contents(root) == before


def test_what_a_killed_job_left_out_is_made_up_for(root: Path) -> None:
    compose_secrets.write(root, {})
    before = contents(root)
    for name in ("redis/redis.conf", "product_api/AMQP_URL"):
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
    assert len(ours) == len(theirs) > 15
    assert not ours & theirs


def test_only_services_are_told_how_order_ids_are_signed(root: Path) -> None:
    compose_secrets.write(root, {})
    key = (root / "ingest_api" / "ORDER_ID_KEY").read_text().strip()
    told = {name.split("/")[0] for name, text in contents(root).items() if key in text}
    assert told == {"services", *TOLD}


def test_services_are_told_what_redis_keys_begin_with_once_a_key_of_order_ids_is_replaced(root: Path) -> None:
    compose_secrets.write(root, {})
    assert not [*root.glob("*/REDIS_NAMESPACE")]
    rotate_order_ids(root / "services" / "credentials.json")
    compose_secrets.write(root, {})
    assert {it.parent.name for it in root.glob("*/REDIS_NAMESPACE")} == set(TOLD)


@pytest.mark.parametrize("steps", [[], [False], [False, True], [False, False]])
def test_users_in_redis_reach_the_keys_of_the_services_before_and_after_a_rotation(
    root: Path, monkeypatch: pytest.MonkeyPatch, steps: list[bool]
) -> None:
    """And keep their names and passwords."""
    compose_secrets.write(root, {})
    before = (root / "redis" / "redis.conf").read_text()
    for drop_old in steps:
        rotate_order_ids(root / "services" / "credentials.json", drop_old=drop_old)
    compose_secrets.write(root, {})
    assert (root / "redis" / "redis.conf").read_text() == before
    for name in ("DATABASE_URL", "AMQP_URL", "REDIS_URL", "ORDER_ID_KEY", "REDIS_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SECRETS_DIRECTORY", str(root / "product_api"))
    assert f" ~{load(PipelineSettings).namespace}product:* " in before


def test_a_stack_of_an_earlier_release_gets_users_in_redis_and_keeps_its_password(root: Path) -> None:
    """Its credentials know nothing of users: these follow from them."""
    old = {"postgres": "1a" * 16, "rabbitmq": "2b" * 16, "redis": "3c" * 16, "order_id_key": "4d" * 32}
    (root / "services" / "credentials.json").write_text(json.dumps(old))
    compose_secrets.write(root, {})
    configured = (root / "redis" / "redis.conf").read_text()
    assert f"requirepass {old['redis']}\n" in configured
    assert (root / "redis" / "password").read_text().strip() == old["redis"]
    assert configured.count("\nuser ") == len(TOLD)


def test_of_a_cluster_services_are_told_all_nodes(root: Path) -> None:
    compose_secrets.write(root, {"BROKERS": "mq1,mq2,mq3"})
    urls = (root / "persist_worker" / "AMQP_URL").read_text().strip().split(",")
    assert [urlsplit(url).hostname for url in urls] == ["mq1", "mq2", "mq3"]
