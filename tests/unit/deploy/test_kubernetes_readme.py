"""deploy/kubernetes/README.md: what it says is done, and is right."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipeline.process.settings import load
from stack.home.directory import ROOT
from stack.servers.redis_users import RIGHTS, rules, user_name
from tests.support.data.kustomized import BROKER, Objects, of_kind, pods, rendered
from tests.support.data.kustomized_services import README, SETTINGS, USE_REDIS, replicas, settings_of
from tests.support.faults.executables import executable

USERS = [it.replace("-", "_") for it in SETTINGS]
PARTS = [
    README[README.index("## 1. An image") : README.index("A job brings the schema")],
    README[README.index("## Replacing ORDER_ID_KEY") : README.index("## Why it is built this way")],
]
"""Each is run here as one script."""


def shell_of(text: str) -> str:
    """The blocks for a shell, one after the other."""
    return "".join(blocks_of(text))


def blocks_of(text: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, dict[str, str]]:
    """What its commands make: the values of each Secret, by its name."""
    kubectl = Path(sys.executable).with_name("kubectl")
    executable(
        tmp_path / "kubectl",
        f'[ "$1" = apply ] && exec test -e "$3"\nexec {kubectl} "$@" --dry-run=client -o json >> made',
    )
    python = f'cd {ROOT} && exec {sys.executable} -m "$module"'
    module = "stack.servers.redis_users"
    run = f'case "$*" in *{module}*) module={module};; *) exit 0;; esac; {python} headrace'
    executable(tmp_path / "docker", f"{run} {tmp_path}/redis")
    executable(tmp_path / "redis-cli", 'exec cat > "$0".heard')
    executable(tmp_path / "kustomize", "test -e kustomization.yaml")
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    executable(tmp_path / "openssl", 'head -c "$3" /dev/urandom | od -An -v -tx1 | tr -d " \\n"; echo')
    executable(tmp_path / "headrace", 'mkdir -p "$HEADRACE_HOME"; echo "{}" > "$HEADRACE_HOME/api-keys.json"')
    script = "set -eu\n" + shell_of(PARTS[0])
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["sh", "-c", script], cwd=tmp_path, env={"PATH": path, "HOME": str(tmp_path)}, check=True)
    stubs = {"docker", "kustomize", "deploy", "kubectl", "openssl", "headrace", "redis-cli", "redis-cli.heard"}
    assert {it.name for it in tmp_path.iterdir()} - stubs == {"keys-of-the-cluster", "made"}
    return dict(made((tmp_path / "made").read_text()))


def test_every_command_of_it_is_run_here() -> None:
    assert [block for part in PARTS for block in blocks_of(part)] == blocks_of(README)
    assert set(re.findall(r"^```(\w+)$", README, re.MULTILINE)) == {"sh", "text"}


def made(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        it, end = decoder.raw_decode(text)
        assert (it["kind"], it["metadata"]["namespace"]) == ("Secret", "headrace")
        yield it["metadata"]["name"], {name: base64.b64decode(value).decode() for name, value in it["data"].items()}
        text = text[end:]


def test_the_secrets_that_it_makes_are_those_that_are_used(
    objects: Objects, secrets: dict[str, dict[str, str]]
) -> None:
    used: dict[str, set[str]] = {}
    for _, pod in pods(objects):
        for volume in pod["spec"]["volumes"]:
            if "secret" in volume:
                keys = {it["key"] for it in volume["secret"].get("items", [{"key": "api-keys.json"}])}
                used.setdefault(volume["secret"]["secretName"], set()).update(keys)
    for it in of_kind(objects, "User").values():
        used[it["spec"]["importCredentialsSecret"]["name"]] = {"username", "password"}
    for it in of_kind(objects, "TriggerAuthentication").values():
        assert all(key["key"] in used[key["name"]] for key in it["spec"]["secretTargetRef"])
    used["headrace-operator"] = {"DATABASE_URL", "AMQP_URL"}  # for people
    assert {name: set(values) for name, values in secrets.items()} == used


@pytest.mark.parametrize("service", SETTINGS)
def test_a_service_starts_with_them_and_is_the_user_that_the_broker_knows(
    secrets: dict[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    directory = tmp_path / "mounted"
    directory.mkdir()
    for name, value in secrets[f"headrace-{service}"].items():
        (directory / name).write_text(value)
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SECRETS_DIRECTORY", str(directory))
    user = secrets[f"headrace-rabbitmq-{service}"]
    assert user["username"] == service.replace("-", "_")
    login = f"amqp://{user['username']}:{user['password']}"
    objects = rendered("overlays/production")
    (cluster,) = of_kind(objects, "RabbitmqCluster").values()
    (vhost,) = of_kind(objects, "Vhost").values()
    settings: Any = load(SETTINGS[service])
    assert settings.amqp_urls == [
        f"{login}@{BROKER}-server-{node}.{BROKER}-nodes.headrace.svc:5672/{vhost['spec']['name']}"
        for node in range(cluster["spec"]["replicas"])
    ]
    assert settings.database_url.startswith(f"postgresql://headrace_{user['username']}:")
    if service not in USE_REDIS:
        return
    redis = urlsplit(settings.redis_url)
    assert (redis.username, settings.namespace) == (f"headrace_{user['username']}", "headrace:")
    hashed = hashlib.sha256((redis.password or "").encode()).hexdigest()
    assert f"ACL SETUSER {redis.username} reset on #{hashed} " in (tmp_path / "redis-cli.heard").read_text()


@pytest.mark.parametrize("program", ["openssl", "headrace"])
def test_no_secret_is_made_when_what_makes_its_content_fails(tmp_path: Path, program: str) -> None:
    """Pasted into a shell that does not stop at errors. An empty password, or ORDER_ID_KEY, looks like any other."""
    for name in ("openssl", "headrace"):
        executable(tmp_path / name, "exit 1" if name == program else "echo 00112233445566778899aabbccddeeff")
    executable(tmp_path / "kubectl", f'[ "$3" = create ] && echo "$*" >> {tmp_path}/made; exit 0')
    text = README[README.index("## 2. Accounts") : README.index("## 4. All of it")]
    shell = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    using = [it for it in blocks_of(text) if re.search(rf"\b{program} (rand|keys)", it)]
    assert using
    for number, block in enumerate(using):
        cwd = tmp_path / str(number)
        for directory in [] if "mkdir broker" in block else ["broker", "database", "redis"]:
            (cwd / directory).mkdir(parents=True)
            for user in (*USERS, "operator", "owner"):
                (cwd / directory / user).write_text("00\n")
        cwd.mkdir(exist_ok=True)
        script = f"services='{' '.join(USERS)}' all='{' '.join(USERS)}'\n{block}"
        done = subprocess.run(["bash", "-c", script], cwd=cwd, env=shell, check=False, capture_output=True)
        assert done.returncode != 0
    assert not (tmp_path / "made").exists()


def test_the_secret_key_is_replaced_in_three_steps_each_for_all_services_and_rolled_out(tmp_path: Path) -> None:
    old = "6f" * 32
    (tmp_path / "key").write_text(old)
    executable(
        tmp_path / "kubectl",
        f"""cd {tmp_path}
        if [ "$3" = get ]; then base64 -w 0 key; exit; fi
        if [ "$3" = patch ]; then echo "$7" | grep -o '"[^"]*"}}}}$' | tr -d '"}}\\n' > key; fi
        printf '%s\\n' "$*" >> called""",
    )
    script = "set -eu\n" + shell_of(PARTS[1])
    subprocess.run(["sh", "-c", script], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True)
    calls = [line.removeprefix("-n headrace ") for line in (tmp_path / "called").read_text().splitlines()]
    each = 3 * len(USE_REDIS)
    keys = []
    for step in (calls[:each], calls[each : 2 * each], calls[2 * each :]):
        patches, rollouts = step[: len(USE_REDIS)], step[len(USE_REDIS) :]
        (key,) = {json.loads(it.split(" -p ")[1])["stringData"]["ORDER_ID_KEY"] for it in patches}
        keys.append(key)
        assert {it.split()[2] for it in patches} == {f"headrace-{it}" for it in USE_REDIS}
        wanted = [f"rollout {what} deployment/{it}" for what in ("restart", "status") for it in USE_REDIS]
        assert sorted(rollouts) == sorted(wanted)
    new = keys[-1]
    assert keys == [f"{old},{new}", f"{new},{old}", new]
    assert len(new) == 64
    assert new != old


def test_no_two_accounts_share_a_password(secrets: dict[str, dict[str, str]]) -> None:
    users = [it["password"] for it in secrets.values() if "password" in it]
    roles = [urlsplit(it["DATABASE_URL"]).password for it in secrets.values() if "DATABASE_URL" in it]
    caches = [urlsplit(it["REDIS_URL"]).password for it in secrets.values() if "REDIS_URL" in it]
    assert len({*users, *roles, *caches}) == len(users) + len(roles) + len(caches) == 7 + 7 + 4


def test_the_users_of_redis_that_it_shows_may_do_what_the_table_says() -> None:
    shown = [line for line in README.splitlines() if line.startswith("ACL SETUSER")]
    assert shown == [
        f"ACL SETUSER {user_name('headrace', service)} reset on #HASH {rules(rights, 'headrace')}"
        for service, rights in RIGHTS.items()
    ]


@pytest.mark.parametrize("variant", ["single", "production"])
def test_it_says_how_many_connections_the_database_must_allow(variant: str) -> None:
    ingest, products = settings_of("ingest-api"), settings_of("product-api")
    each = {
        "ingest-api": ingest.database_connections,
        "product-api": products.database_readers + products.database_writers,
        # One more parks what the broker has given up on.
        "persist-worker": 2,
        "product-consumer": 1,
        "event-relay": settings_of("event-relay").database_connections + 2,
    }
    # Of the migration, and those that PostgreSQL keeps for superusers.
    others = 1 + 3
    most = {name: most for name, (_, most) in replicas(rendered(f"overlays/{variant}")).items()}
    assert f"| `{variant}` | {sum((most[name] + 1) * count for name, count in each.items()) + others} |" in README
