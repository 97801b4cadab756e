"""What the command line understands and how it answers, without starting anything."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from ingest_api.settings import IngestSettings
from persist_worker.settings import PersistSettings
from pipeline.process.settings import PipelineSettings
from product_api.settings import ProductSettings
from product_consumer.settings import ConsumerSettings
from stack.develop import checks
from stack.develop.suites import NEEDS, QUICK_FILES, STATIC, TESTS, Stage, available_suites, impossible_here, plan
from stack.errors import HeadraceError
from stack.home.directory import ROOT, Home
from stack.home.environment import HEALTH_PORTS, SERVICE_PORTS
from stack.home.state import SERVICES, Part, StackState
from stack.run.doctor import disk
from stack.run.table import as_dict, without_password
from stack.run.up import choose_product

SUITES = ["unit", "integration", "system", "chaos"]


def headrace(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stack", *arguments],
        cwd=ROOT,
        env={**os.environ, "HEADRACE_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_everything_runs_by_default() -> None:
    run = plan([], SUITES)
    assert run.static == list(STATIC)
    assert run.suites == SUITES
    assert run.needs_servers


def test_what_a_machine_cannot_run_is_left_out_and_said_unless_it_is_named() -> None:
    suites = [*SUITES, "compose"]
    assert plan([], suites).suites == suites
    run = plan([], suites, ["compose"])
    assert (run.suites, run.left_out) == (SUITES, ["compose"])
    run = plan(["compose"], suites, ["compose"])
    assert (run.suites, run.left_out) == (["compose"], [])
    with pytest.raises(HeadraceError, match="cannot run compose, which HEADRACE_TEST_REQUIRED names"):
        plan([], suites, ["compose"], ["cluster", "compose"])
    assert plan([], suites, [], ["compose"]).left_out == []
    with pytest.raises(HeadraceError, match="HEADRACE_TEST_REQUIRED names 'compose,cluster'"):
        plan([], suites, [], ["compose,cluster"])
    assert set(impossible_here()) <= set(NEEDS) <= set(available_suites())


def started(*arguments: str, suites: list[str] = SUITES) -> list[tuple[str, list[str], list[str]]]:
    """For each start of pytest on two cores: its name, the suites, the arguments. No test has a mark."""
    stages = plan(list(arguments), suites).stages(cores=2, tests=Path("/nowhere"))
    return [(it.name, it.suites, it.arguments) for it in stages]


def test_tests_run_side_by_side_and_those_that_measure_run_alone() -> None:
    assert started("--", "-x") == [
        ("unit", ["unit"], ["-m", "not alone and not deep", "-x", "-n", "2", "--dist", "loadgroup"]),
        (
            "side by side",
            ["system", "integration"],
            ["-m", "not alone and not deep", "-x", "-n", "4", "--dist", "loadgroup"],
        ),
        ("one by one", ["chaos"], ["-m", "alone and not deep", "-x"]),
    ]
    assert started("chaos") == [("one by one", ["chaos"], ["-m", "alone"])]
    assert [name for name, _, _ in started("unit")] == ["unit"]
    assert [name for name, _, _ in started("types")] == []


def test_a_suite_of_which_a_test_runs_alone_is_started_once_more_for_that(tmp_path: Path) -> None:
    for suite, text in (("unit", "pass"), ("system", "@pytest.mark.alone")):
        (tmp_path / suite / "room").mkdir(parents=True)
        (tmp_path / suite / "room" / "test_x.py").write_text(text)
    stages = plan(["unit", "system"], SUITES).stages(2, tmp_path)
    assert [(it.name, it.suites) for it in stages] == [
        ("unit", ["unit"]),
        ("side by side", ["system"]),
        ("one by one", ["system"]),
    ]


@pytest.mark.parametrize("argument", ["-k", "-kduplicate", "-m", "-s", "--pdb", "--lf", "-n", "--co", "--chaos-record"])
def test_who_chooses_tests_or_looks_into_one_gets_a_single_pytest(argument: str) -> None:
    assert started("system", "unit", "--", argument) == [("one by one", ["unit", "system"], [argument])]


def test_what_takes_long_runs_only_when_its_suite_is_named_or_at_night() -> None:
    assert all("not deep" in arguments[1] for _, _, arguments in started())
    assert all("not deep" in arguments[1] for _, _, arguments in started("quick"))
    assert not any("not deep" in arguments[1] for _, _, arguments in started("nightly"))
    assert not any("not deep" in arguments[1] for _, _, arguments in started("system"))


def test_at_night_everything_runs_that_this_machine_can_run() -> None:
    suites = [*SUITES, "compose", "soak"]
    run = plan(["nightly"], suites, ["compose"])
    assert (run.static, run.suites, run.left_out) == (list(STATIC), SUITES, ["compose"])
    with pytest.raises(HeadraceError, match="cannot run compose"):
        plan(["nightly"], suites, ["compose"], ["compose"])


def test_quick_checks_everything_static_all_units_and_the_path_of_an_order() -> None:
    run = plan(["quick"], SUITES)
    assert (run.static, run.suites) == (list(STATIC), ["unit", *QUICK_FILES])
    assert run.needs_servers
    assert all((TESTS / file).is_file() for file in QUICK_FILES)
    assert plan(["quick", "integration"], SUITES).suites == ["integration", "unit"]


def test_a_soak_runs_when_it_is_named_and_for_as_long_as_it_is_told() -> None:
    suites = [*SUITES, "soak"]
    assert plan([], suites).suites == SUITES
    run = plan(["soak", "--minutes", "30", "--", "-x"], suites)
    assert run.stages(2) == [Stage("one by one", ["soak"], ["-m", "alone", "--minutes", "30", "-x"], may_be_empty=True)]
    assert run.stages(2)[0].paths == ["tests/chaos/soak.py"]
    assert run.needs_servers


@pytest.mark.parametrize(
    "arguments", [["unit", "--minutes", "3"], ["soak", "--minutes"], ["soak", "--minutes", "x"], ["--minutes", "3"]]
)
def test_minutes_are_whole_and_for_a_soak(arguments: list[str]) -> None:
    with pytest.raises(HeadraceError, match="--minutes") as raised:
        plan(arguments, [*SUITES, "soak"])
    assert raised.value.fix == "./headrace test soak --minutes 10"


def test_suites_are_chosen_by_name_and_run_in_order() -> None:
    run = plan(["system", "lint", "unit", "--", "-k", "lint"], SUITES)
    assert (run.static, run.suites, run.pytest_arguments) == (["lint"], ["unit", "system"], ["-k", "lint"])


def test_unit_needs_no_servers() -> None:
    assert not plan(["unit"], SUITES).needs_servers
    assert not plan(["types"], SUITES).needs_servers


def test_an_unknown_suite_is_an_error_that_names_the_known() -> None:
    with pytest.raises(HeadraceError, match="no suite 'unti'") as raised:
        plan(["unti"], SUITES)
    assert "unit, integration" in raised.value.cause


def test_what_looks_like_pytests_is_an_error_that_says_where_it_goes() -> None:
    with pytest.raises(HeadraceError, match="no option '-k'") as raised:
        plan(["unit", "-k", "foo"], SUITES)
    assert raised.value.fix == "./headrace test unit -- -k foo"


def test_a_suite_is_a_directory_with_tests(tmp_path: Path) -> None:
    for suite in ("unit", "chaos", "empty"):
        (tmp_path / suite).mkdir()
    (tmp_path / "unit" / "test_x.py").touch()
    (tmp_path / "chaos" / "test_x.py").touch()
    assert available_suites(tmp_path) == ["unit", "chaos"]
    (tmp_path / "chaos" / "soak.py").touch()
    assert available_suites(tmp_path) == ["unit", "chaos", "soak"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@h:1/d", "postgresql://u@h:1/d"),
        ("redis://:secret@h:1/0", "redis://h:1/0"),
        ("amqp://u:secret@h:1/%2F", "amqp://u@h:1/%2F"),
        ("amqp://u:secret@h:1/%2F,amqp://u:secret@i:1/%2F", "amqp://u@h:1/%2F,amqp://u@i:1/%2F"),
        ("http://h:1/x", "http://h:1/x"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_a_state_file_of_the_dead_shows_nothing_alive() -> None:
    state = StackState(
        "ready", parts={"ingest_api": Part("http://h", 5, "ready"), "redis": Part("redis://", 6, "ready")}
    )
    shown = as_dict(state, is_running=False)
    assert shown["running"] is False
    assert shown["services"]["ingest_api"] == {
        "url": "http://h",
        "pid": None,
        "state": "stopped",
        "restarts": 0,
        "why": None,
    }
    assert shown["redis"]["pid"] is None


@pytest.mark.parametrize("is_running", [True, False])
def test_a_status_has_every_part_whatever_is_known_of_it(is_running: bool) -> None:
    state = StackState("starting", parts={"postgres": Part("postgresql://h", state="external")})
    shown = as_dict(state, is_running=is_running)
    nothing = {"url": None, "pid": None, "state": "stopped", "restarts": 0, "why": None}
    assert shown["services"] == dict.fromkeys(SERVICES, nothing)
    assert shown["rabbitmq"] == shown["redis"] == nothing
    assert shown["postgres"] == {**nothing, "url": "postgresql://h", "state": "external"}


def test_status_of_nothing(tmp_path: Path) -> None:
    done = headrace(tmp_path / "home", "status", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["running"] is False


def test_down_of_nothing_is_no_error(tmp_path: Path) -> None:
    done = headrace(tmp_path / "home", "down", "--purge")
    assert (done.returncode, done.stdout) == (0, "nothing is running\n")


def test_down_purge_leaves_the_servers_of_a_test_run_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    run = Home(home.path / "test-1")
    for each in (home, run):
        each.create()
    lock = run.try_lock()
    done = headrace(home.path, "down", "--purge")
    assert done.returncode == 0
    assert f"kept {run.path}: a test run is using it\n" in done.stdout
    assert run.logs.exists()
    assert not home.logs.exists()
    assert lock is not None
    os.close(lock)


def test_an_interrupt_as_the_servers_stop_does_not_lose_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def servers(_: Home) -> Iterator[None]:
        yield
        raise KeyboardInterrupt

    monkeypatch.setattr(checks, "_Servers", servers)
    monkeypatch.setattr(checks, "_pytest", lambda *_: True)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert checks.run_suites(Home(tmp_path), ["system"]) == 0
    assert "all passed (side by side)" in capsys.readouterr().out


def test_an_error_says_what_cause_and_mend(tmp_path: Path) -> None:
    done = headrace(tmp_path / "home", "logs", "nginx")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no log of 'nginx'\n  cause: the names are: ingest_api, ")


def test_a_log_that_need_not_be_there_says_why(tmp_path: Path) -> None:
    assert "nothing had to be installed" in headrace(tmp_path / "home", "logs", "apt").stderr
    assert "no log of redis" in headrace(tmp_path / "home", "logs", "redis").stderr


def test_logs_into_a_reader_that_has_had_enough_are_silent(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    home.log("redis").write_text("a line\n" * 100_000)
    command = [
        "sh",
        "-c",
        'HEADRACE_HOME="$1" "$2" -m stack logs redis -f | head -n 1',
        "sh",
        str(home.path),
        sys.executable,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    assert (done.stdout, done.stderr) == ("a line\n", "")


@pytest.mark.parametrize("variable", ["INGEST_API_PORT", "DATABASE_URL", "AMQP_URL", "REDIS_URL"])
def test_a_wrong_variable_is_refused_before_anything_is_started(tmp_path: Path, variable: str) -> None:
    done = headrace(tmp_path / "home", "up", "-d", **{variable: "localhost:x"})
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {variable}")
    assert not (tmp_path / "home" / "state.json").exists()


def test_the_ports_of_the_services_are_those_of_their_settings() -> None:
    settings: dict[str, type[PipelineSettings]] = {
        "ingest_api": IngestSettings,
        "persist_worker": PersistSettings,
        "product_consumer": ConsumerSettings,
        "product_api": ProductSettings,
    }
    assert {name: each.model_fields["port"].default for name, each in settings.items()} == SERVICE_PORTS
    found = {name: each.model_fields.get("health_port") for name, each in settings.items()}
    assert {name: it.default for name, it in found.items() if it is not None} == HEALTH_PORTS


def test_the_example_orders_what_is_in_stock() -> None:
    seed, most, some = (
        {"id": name, "name": name, "qty": qty} for name, qty in (("Laptop Demo", 2), ("most", 9), ("some", 8))
    )
    assert choose_product([some, most, seed]) == "Laptop Demo"
    assert choose_product([some, most, {**seed, "qty": 1}]) == "most"
    assert choose_product([{**most, "qty": 0}]) is None


def test_tables_in_a_pipe_end_where_their_text_ends(tmp_path: Path) -> None:
    lines = headrace(tmp_path / "home", "doctor").stdout.splitlines()
    assert len(lines) > 10
    assert [line for line in lines if line != line.rstrip()] == []


def test_a_small_disk_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=150_000_000))
    assert disk(Home(tmp_path)).verdict == "problem"


@pytest.mark.parametrize("asked", [["--version"], ["-h"], ["test", "--help"]])
def test_help_and_version(tmp_path: Path, asked: list[str]) -> None:
    done = headrace(tmp_path / "home", *asked)
    assert done.returncode == 0
    assert re.search(r"headrace \d|Usage: headrace", done.stdout)


def test_an_error_can_be_printed_in_ascii(tmp_path: Path) -> None:
    done = headrace(tmp_path / "home", "demo", PYTHONIOENCODING="ascii", NO_COLOR="1")
    assert done.returncode == 1
    assert "fix:   ./headrace up -d" in done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in a path with a space, whose `python -m stack` says where it is and what it was told."""
    root = tmp_path / "a checkout"
    (root / "stack").mkdir(parents=True)
    for name in ("headrace", "requirements.lock", "requirements-dev.lock"):
        shutil.copy(ROOT / name, root)
    (root / "stack" / "__main__.py").write_text(
        "import os, sys; print(os.getcwd(), os.environ['HEADRACE_HOME'], sys.argv[1:])"
    )
    return root


def test_the_script_works_from_anywhere_through_a_link(checkout: Path, tmp_path: Path) -> None:
    _make_venv(checkout)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "hr").symlink_to("../a checkout/headrace")
    environment = {**os.environ, "HEADRACE_HOME": "mine"}
    command = ["sh", str(tmp_path / "bin" / "hr"), "logs", "a b"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{checkout} {tmp_path / 'mine'} ['logs', 'a b']\n"


def test_an_unusable_python_is_an_error_with_the_command_that_mends_it(checkout: Path) -> None:
    environment = {**os.environ, "HEADRACE_PYTHON": "/bin/false", "HEADRACE_HOME": str(checkout / "home")}
    command = ["sh", str(checkout / "headrace"), "up"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: HEADRACE_PYTHON=/bin/false cannot be used\n")
    assert "fix:" in done.stderr


def _make_venv(root: Path) -> None:
    """What the script would have made: this Python under the name it looks for, and the stamp of a complete one."""
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "bin" / "python").symlink_to(sys.executable)
    with (root / "requirements.lock").open() as lock:
        checksum = subprocess.run(["cksum"], stdin=lock, capture_output=True, text=True, check=True).stdout.strip()
    major, minor = sys.version_info[:2]
    (root / ".venv" / "headrace-requirements.lock").write_text(f"{checksum} {major} {minor} {sys.base_prefix}\n")
