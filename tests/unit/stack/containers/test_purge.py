"""`down --purge` removes what Headrace made, and nothing else, whatever HEADRACE_HOME names."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from stack import cli
from stack.containers import containers
from stack.errors import HeadraceError
from stack.home.directory import FOUND, MADE, MARKER, Home
from tests.unit.stack.test_commands import headrace


def tree(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Somebody's directory, with names that Headrace uses too."""
    directory = tmp_path / "somebody"
    for name in ("logs", "postgres/data", "redis", "test-1"):
        (directory / name).mkdir(parents=True)
    for name in ("thesis.txt", "logs/mine.log", "postgres/data/rows", "lock", "state.json", "test-1/result"):
        (directory / name).write_text("mine")
    return directory


def test_a_directory_of_somebody_else_is_left_as_it_is(foreign: Path) -> None:
    """It was removed, with all that was in it."""
    before = tree(foreign)
    done = headrace(foreign, "down", "--purge")
    assert done.returncode == 1
    assert f"error: {foreign} is not a state directory of Headrace\n" in done.stderr
    assert "HEADRACE_HOME" in done.stderr
    assert tree(foreign) == before


def test_up_puts_nothing_into_a_directory_of_somebody_else(foreign: Path) -> None:
    before = tree(foreign)
    done = headrace(foreign, "up", "-d")
    assert (done.returncode, "is not a state directory of Headrace" in done.stderr) == (1, True)
    assert tree(foreign) == before


@pytest.mark.parametrize("home", ["/", str(Path.home()), "/etc", "/tmp"])
def test_no_purge_of_a_directory_that_everybody_uses(home: str) -> None:
    with pytest.raises(HeadraceError, match="is not a state directory of Headrace"):
        Home(Path(home)).purge()
    with pytest.raises(HeadraceError, match="is not a state directory of Headrace"):
        Home(Path(home)).create()


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for command in (["down", "--purge"], ["keys", "add", "shop", "--scope", "ops"]):
        done = headrace(file, *command)
        assert (done.returncode, "is not a directory" in done.stderr, "Traceback" in done.stderr) == (1, True, False)
    assert file.read_text() == "mine"


def test_what_headrace_made_goes_as_a_whole(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "home")
    home.create()
    assert (home.path / MARKER).read_text() == MADE
    home.state.write_text("{}")
    assert headrace(home.path, "down", "--purge").stdout.endswith(f"removed {home.path}\n")
    assert not home.path.exists()
    assert home.path.parent.exists()


def test_an_empty_directory_that_was_there_stays_empty(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    assert (home.path / MARKER).read_text() == FOUND
    home.create()
    assert headrace(tmp_path, "down", "--purge").returncode == 0
    assert tree(tmp_path) == set()


def test_what_somebody_put_beside_it_stays_and_is_named(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    (home.path / "notes.txt").write_text("mine")
    (home.path / "test-notes").mkdir()
    (home.path / "test-notes" / "mine").write_text("mine")
    printed = headrace(home.path, "down", "--purge").stdout
    assert f"kept {home.path}/notes.txt: Headrace did not create it\n" in printed
    assert f"kept {home.path}/test-notes: " in printed
    assert tree(home.path) == {MARKER, "notes.txt", "test-notes", "test-notes/mine"}
    home.create()
    (home.path / "notes.txt").unlink()
    (home.path / "test-notes" / "mine").unlink()
    assert home.purge() == []
    assert not home.path.exists()


def test_through_a_link_only_what_is_headraces_goes(tmp_path: Path, foreign: Path) -> None:
    for target in (foreign, tmp_path / "empty"):
        target.mkdir(exist_ok=True)
        before = tree(target)
        link = tmp_path / f"link-to-{target.name}"
        link.symlink_to(target)
        headrace(link, "keys", "add", "shop", "--scope", "ops")
        assert headrace(link, "down", "--purge").returncode == (1 if before else 0)
        assert tree(target) == before
        assert link.is_symlink()


def test_links_in_it_are_removed_and_not_followed(tmp_path: Path, foreign: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    (home.path / "postgres").symlink_to(foreign)
    (home.path / "test-1").symlink_to(foreign)
    before = tree(foreign)
    home.purge()
    assert tree(foreign) == before


def test_a_directory_from_before_there_were_marks_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    home.lock.touch()
    (home.path / MARKER).unlink()
    home.create()
    assert (home.path / MARKER).read_text() == MADE
    (home.path / MARKER).unlink()
    home.purge()
    assert not home.path.exists()


def test_the_directory_is_still_passed_through_and_not_listed(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o711


# ── containers


@pytest.fixture
def compose(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that Docker Compose was given, instead of running them."""
    given: list[list[str]] = []
    monkeypatch.setattr(containers, "_program", lambda: ["true"])
    monkeypatch.setattr(containers, "_check_engine", lambda: None)
    monkeypatch.setattr(containers, "show", lambda: None)
    monkeypatch.setattr(containers, "_containers", lambda *_: [])
    run = containers._run_logged

    def note(home: Home, command: list[str], *rest: Any) -> None:
        given.append(command)
        run(home, command, *rest)

    monkeypatch.setattr(containers, "_run_logged", note)
    monkeypatch.setattr(containers, "_check_ports", lambda _: None)
    return given


def run_down(home: Home, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(home.path))
    monkeypatch.setattr("sys.argv", ["headrace", "down", *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)


def test_the_volumes_of_containers_go_with_a_purge_also_after_a_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compose: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """`down`, then `down --purge` said "removed", and left data, passwords and keys."""
    home = Home(tmp_path / "home")
    containers.up(home, detach=True)
    run_down(home, monkeypatch)
    assert "kept       the volumes of the containers: data, passwords and keys" in capsys.readouterr().out
    assert not containers.is_used(home)
    run_down(home, monkeypatch, "--purge")
    assert compose[-1][-3:] == ["down", "--remove-orphans", "--volumes"]
    assert "removed    the volumes of the containers" in capsys.readouterr().out
    assert not home.path.exists()


def test_a_purge_of_containers_keeps_the_data_of_the_stack_without_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compose: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "home")
    home.create()
    home.credentials.write_text("{}")
    containers.up(home, detach=True)
    run_down(home, monkeypatch, "--purge")
    assert f"kept       {home.path}: the data of the stack without containers" in capsys.readouterr().out
    assert home.credentials.exists()
    run_down(home, monkeypatch, "--purge")
    assert not home.path.exists()


def test_a_purge_of_the_stack_without_containers_keeps_volumes_while_it_runs_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compose: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "home")
    containers.up(home, detach=True)
    containers.down(home, purge=False)
    held = [True, True, False, False]
    monkeypatch.setattr(Home, "is_held", lambda _: held.pop(0) if held else False)
    home.state.write_text("{}")
    compose.clear()
    run_down(home, monkeypatch, "--purge")
    assert compose == []
    assert "kept       the volumes of the containers" in capsys.readouterr().out
    assert containers.has_data(home)
    assert not home.state.exists()


def test_volumes_of_a_stack_of_other_files_go_with_the_same_purge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compose: list[list[str]]
) -> None:
    home = Home(tmp_path / "home")
    monkeypatch.setenv("COMPOSE_FILE", "docker-compose.yml:deploy/cluster/docker-compose.yml")
    containers.up(home, detach=True)
    containers.down(home, purge=False)
    monkeypatch.delenv("COMPOSE_FILE")
    containers.up(home, detach=True)
    assert "deploy/cluster" not in " ".join(compose[-1])
    containers.down(home, purge=True)
    assert "deploy/cluster/docker-compose.yml" in " ".join(compose[-1])


def test_a_taken_port_is_named_with_who_has_it_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(containers, "_containers", lambda *_: [])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("PRODUCT_API_PORT", str(port))
        with socket.create_server(("127.0.0.1", 0)) as other:
            monkeypatch.setenv("INGEST_API_PORT", str(other.getsockname()[1]))
            other.close()
            with pytest.raises(
                HeadraceError, match=f"port {port}, on which product_api is published, is taken"
            ) as told:
                containers._check_ports(Home(tmp_path))
        assert f"pid {os.getpid()}" in told.value.cause
        assert "PRODUCT_API_PORT=" in told.value.fix
        ours = [{"Publishers": [{"PublishedPort": port, "TargetPort": 3000, "URL": "127.0.0.1"}]}]
        monkeypatch.setattr(containers, "_containers", lambda *_: ours)
        containers._check_ports(Home(tmp_path))


def test_doctor_sees_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compose: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    from stack.run.doctor import doctor

    home = Home(tmp_path / "home")
    containers.up(home, detach=True)
    assert doctor(home, containers.describe(home), is_in_containers=containers.is_used(home)) == 1
    assert "`up` would fail: headrace is in use in containers" in capsys.readouterr().out
    containers.down(home, purge=False)
    doctor(home, containers.describe(home), is_in_containers=containers.is_used(home))
    assert "their volumes are left: ./headrace down --purge" in capsys.readouterr().out
