"""The stack in containers, in the table of `./headrace status`; and which commands mean it."""

import itertools
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from stack import cli
from stack.containers import containers, replicas
from stack.containers.containers import state_of
from stack.errors import HeadraceError
from stack.home.directory import ROOT, Home
from tests.support.faults.executables import executable


def container(service: str, *ports: tuple[int, int], state: str = "running", health: str = "healthy") -> dict[str, Any]:
    published = [{"URL": "127.0.0.1", "TargetPort": inner, "PublishedPort": outer} for inner, outer in ports]
    number = next(_NUMBERS)
    name = f"headrace-{service}-{number}"
    return {"Service": service, "Name": name, "State": state, "Health": health, "Publishers": published}


_NUMBERS = itertools.count(1)


def page(queue: str, orders: int, oldest_s: float) -> str:
    """What an ingest_api says at /metrics of one queue, and nothing of the other."""
    waits = {"orders": orders, "messages": orders and 1, "oldest_seconds": oldest_s}
    lines = [f'headrace_backlog_{what}{{queue="{queue}"}} {value}' for what, value in waits.items()]
    return "\n".join(lines) + "\n"


ALL = [
    *(container(name) for name in ("ingest_api", "persist_worker", "product_consumer", "product_api")),
    *(container(name) for name in ("postgres", "rabbitmq", "redis")),
    container("proxy", (8080, 18080), (3000, 13000)),
]


def test_what_is_published_is_shown_where_it_is_and_the_rest_where_it_is_inside() -> None:
    state = state_of(ALL)
    assert state.phase == "ready"
    assert state.parts["ingest_api"].url == "http://127.0.0.1:18080"
    assert state.parts["product_api"].url == "http://127.0.0.1:13000"
    assert state.parts["postgres"].url == "in the network of the containers, as postgres"
    assert {it.state for it in state.parts.values()} == {"ready"}


def test_of_several_replicas_the_worst_counts_and_their_number_is_told() -> None:
    more = [container("persist_worker"), container("product_consumer", health="unhealthy"), container("rabbitmq-2")]
    state = state_of([*ALL, *more])
    assert state.parts["rabbitmq"].state == "ready × 2"
    assert state.parts["persist_worker"].state == "ready × 2"
    assert state.parts["product_consumer"].state == "not ready × 2"
    assert state.phase == "starting"


@pytest.mark.parametrize("bad", [{"state": "restarting", "health": ""}, {"state": "exited"}, {"health": "starting"}])
def test_what_does_not_run_is_not_ready(bad: dict[str, str]) -> None:
    found = [container("redis", **bad) if it["Service"] == "redis" else it for it in ALL]
    assert state_of(found).parts["redis"].state == "not ready"


def test_before_the_proxy_is_there_nothing_is_published() -> None:
    assert "in the network" in state_of(ALL[:-1]).parts["ingest_api"].url


def test_nothing_is_nothing() -> None:
    assert state_of([]).parts == {}


@pytest.mark.parametrize(
    "command", [["demo", "--orders", "5"], ["verify", "--json"], ["dead", "list"], ["hooks", "list"], ["keys", "list"]]
)
def test_what_needs_the_servers_runs_inside_once_there_are_containers(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    became: list[list[str]] = []
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.setattr(containers, "_program", lambda: ["docker", "compose"])

    def become(words: list[str]) -> int:
        became.append(words)
        return 0

    monkeypatch.setattr(containers, "_become", become)
    monkeypatch.setattr("sys.argv", ["headrace", *command])
    (tmp_path / "containers").touch()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert [it[-len(command) - 1 :] for it in became] == [["tools", *command]]
    assert "-T" in became[0], "a pipe is no terminal"


def test_with_other_servers_named_a_command_is_about_those() -> None:
    """It was silently about the containers."""
    named = {"DATABASE_URL": "postgresql://elsewhere/it", "AMQP_URL": "amqp://elsewhere"}
    for command in ("verify", "dead", "demo"):
        assert containers.is_inside(command, [command], {"DATABASE_URL": ""})
        assert not containers.is_inside(command, [command], named)
    assert not containers.is_inside("verify", ["verify", "--database-url=postgresql://localhost/it"], {})
    assert containers.is_inside("keys", ["keys", "list"], named)
    assert not containers.is_inside("down", ["down"], {})


def test_without_compose_it_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "_version_of", lambda *_: "1.29.2")
    with pytest.raises(HeadraceError, match="cannot run containers") as error:
        containers.compose("ps")
    assert "./headrace up" in error.value.fix


def test_from_up_to_down_all_commands_are_about_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever COMPOSE_FILE is in the shell that they are typed in."""
    one, two = str(ROOT / "docker-compose.yml"), str(ROOT / "deploy" / "cluster" / "docker-compose.yml")
    monkeypatch.setattr(containers, "_program", lambda: ["true"])
    monkeypatch.setattr(containers, "_check_engine", lambda: None)
    monkeypatch.setattr(containers, "show", lambda: None)
    # Whoever has port 8080 on this machine is no part of this.
    monkeypatch.setattr(containers, "_check_ports", lambda _: None)
    monkeypatch.chdir(ROOT)
    home = Home(tmp_path)

    def files() -> list[str]:
        command = containers.compose("ps", home=home)
        return [file for word, file in itertools.pairwise(command) if word == "--file"]

    monkeypatch.setenv("COMPOSE_FILE", "docker-compose.yml:deploy/cluster/docker-compose.yml")
    assert files() == [one]
    containers.up(home, detach=True)
    assert (tmp_path / "containers").read_text() == "docker-compose.yml\ndeploy/cluster/docker-compose.yml\n"
    monkeypatch.delenv("COMPOSE_FILE")
    assert files() == [one, two]
    with pytest.raises(HeadraceError, match="another stack of containers is in use"):
        containers.up(home, detach=True)
    assert files() == [one, two]
    containers.down(home, purge=False)
    containers.up(home, detach=True)
    assert files() == [one]


@pytest.mark.parametrize("named", ["", "compose.yml", "/srv/other/docker-compose.yml:docker-compose.yml"])
def test_files_that_are_not_ours_are_about_something_else(
    named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert containers.wanted_files({"COMPOSE_FILE": named}) == [str(ROOT / "docker-compose.yml")]
    assert ("ignoring COMPOSE_FILE" in capsys.readouterr().out) == bool(named)


def test_one_stack_at_a_time(tmp_path: Path) -> None:
    home = Home(tmp_path)
    lock = home.try_lock()
    assert lock is not None
    with pytest.raises(HeadraceError, match="running already, without containers"):
        containers.up(home, detach=True)


def test_a_machine_without_compose_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise no command would mean anything else again: not `up`, which is told to do without, and not `down`."""
    monkeypatch.setattr(containers, "_version_of", lambda *_: "")
    monkeypatch.setattr(containers, "_check_engine", lambda: None)
    home = Home(tmp_path)
    with pytest.raises(HeadraceError, match="cannot run containers"):
        containers.up(home, detach=True)
    assert not containers.is_used(home)


def test_a_down_that_fails_says_that_it_was_a_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "_program", lambda: ["false"])
    home = Home(tmp_path)
    home.create()
    with pytest.raises(HeadraceError, match="the containers were not stopped") as error:
        containers.down(home, purge=False)
    assert "./headrace down" in error.value.fix


def test_a_page_that_is_not_published_is_not_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["headrace", "up", "--docker", "--ui"])
    monkeypatch.setattr(containers, "up", lambda *_, **__: pytest.fail("it was started"))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`headrace status` beside a Compose that tells of these containers, and of what is asked inside them."""
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.setattr(containers, "_program", lambda: [str(tmp_path / "compose")])

    def run(found: list[dict[str, Any]], inside: dict[str, str], *, as_json: bool = False) -> int:
        """`inside`: container → script that stands for its health check."""
        (tmp_path / "ps").write_text("\n".join(map(json.dumps, found)))
        cases = "".join(
            f"        {it['Service']}:{_index(it)}) {inside.get(it['Name'], 'exit 1')} ;;\n" for it in found
        )
        script = f"""
            while [ "$1" != ps ] && [ "$1" != exec ]; do shift; done
            [ $1 = ps ] && exec cat {tmp_path}/ps
            [ "$2 $3" = "-T --index" ] || exit 9
            case $5:$4 in\n{cases}    esac"""
        executable(tmp_path / "compose", script)
        return containers.status(as_json=as_json)

    return run


def _index(container: dict[str, Any]) -> str:
    return str(container["Name"]).rpartition("-")[2]


def test_what_waits_is_told_of_all_replicas_together(
    running: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    second = container("ingest_api")
    found = [*ALL, second]
    inside = {}
    for it, orders, oldest_s in ((ALL[0], 1_000, 90.0), (second, 20, 3.0)):
        (tmp_path / it["Name"]).write_text(page("orders.accepted", orders, oldest_s) + page("orders.created", 0, 0.0))
        inside[it["Name"]] = f"cat {tmp_path / it['Name']}"
    assert running(found, inside) == 0
    shown = capsys.readouterr().out
    assert "\norders.accepted: 1,020 orders in 2 messages wait for their row, the oldest for 90 s\n" in shown
    assert "orders.created" not in shown
    assert running(found, inside, as_json=True) == 0
    waiting = json.loads(capsys.readouterr().out)["waiting"]
    assert waiting["orders.accepted"] == {"orders": 1_020, "messages": 2, "oldest_s": 90.0}


@pytest.mark.parametrize("answer", ["exit 1", "echo nothing of it", "exec sleep 60"])
def test_a_sum_without_one_of_them_is_not_shown_as_the_sum(
    answer: str, running: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "TIMEOUT_S", 0.5)
    second = container("ingest_api")
    (tmp_path / "page").write_text(page("orders.accepted", 7, 1.0) + page("orders.created", 0, 0.0))
    assert running([*ALL, second], {ALL[0]["Name"]: f"cat {tmp_path}/page", second["Name"]: answer}) == 0
    assert "the number of waiting orders is unknown: ingest_api does not report it\n" in capsys.readouterr().out


def test_a_container_that_is_not_ready_says_why(running: Any, capsys: pytest.CaptureFixture[str]) -> None:
    worker = container("persist_worker", health="unhealthy")
    found = [worker if it["Service"] == "persist_worker" else it for it in ALL]
    why = '{"status": "not ready", "parts": {"database": "connection refused", "consumer": "ok"}}'
    assert running(found, {worker["Name"]: f"echo '{why}'; exit 1"}) == 1
    assert "\npersist_worker is not ready: database: connection refused\n" in capsys.readouterr().out
    assert running(found, {worker["Name"]: f"echo '{why}'; exit 1"}, as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["services"]["persist_worker"]["why"] == "database: connection refused"


def test_of_containers_that_do_not_run_nothing_is_asked(running: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = [container("ingest_api", state="exited", health=""), *ALL[1:]]
    assert running(found, {}) == 1
    assert "the number of waiting orders is unknown" in capsys.readouterr().out
    assert running([], {}) == 3


def test_the_health_check_shows_any_page() -> None:
    """As a program of its own: it is run with the standard library alone."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    path = connection.recv(1000).split()[1].decode()
                    connection.sendall(f"HTTP/1.1 {200 if path == '/metrics' else 503} X\r\n\r\n{path}".encode())

        threading.Thread(target=answer, daemon=True).start()
        shown = [
            subprocess.run(
                [sys.executable, "-IS", ROOT / "stack" / "services" / "healthcheck.py", path],
                env={"HEALTH_PORT": str(server.getsockname()[1])},
                capture_output=True,
                text=True,
                check=False,
            )
            for path in ("/metrics", "/health")
        ]
    assert [(it.stdout, it.returncode) for it in shown] == [("/metrics\n", 0), ("/health\n", 1)]
