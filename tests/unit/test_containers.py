"""The stack in containers, in the table of `./headrace status`; and which commands mean it."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from stack import cli, containers
from stack.containers import state_of
from stack.errors import HeadraceError
from stack.home import ROOT, Home


def container(service: str, *ports: tuple[int, int], state: str = "running", health: str = "healthy") -> dict[str, Any]:
    published = [{"URL": "127.0.0.1", "TargetPort": inner, "PublishedPort": outer} for inner, outer in ports]
    return {"Service": service, "State": state, "Health": health, "Publishers": published}


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
    "command", [["demo", "--orders", "5"], ["verify", "--json"], ["dead", "list"], ["keys", "list"]]
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
    assert "./headrace up" in error.value.mend


def test_from_up_to_down_all_commands_are_about_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever COMPOSE_FILE is in the shell that they are typed in."""
    one, two = str(ROOT / "docker-compose.yml"), str(ROOT / "deploy" / "cluster" / "docker-compose.yml")
    monkeypatch.setattr(containers, "_program", lambda: ["true"])
    monkeypatch.setattr(containers, "_check_engine", lambda: None)
    monkeypatch.setattr(containers, "show", lambda: None)
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
    assert ("COMPOSE_FILE is not regarded" in capsys.readouterr().out) == bool(named)


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
    assert "./headrace down" in error.value.mend


def test_a_page_that_is_not_published_is_not_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["headrace", "up", "--docker", "--ui"])
    monkeypatch.setattr(containers, "up", lambda *_, **__: pytest.fail("it was started"))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
