"""What a stack keeps on disk: the lock, credentials, the state file, logs."""

import errno
import json
import os
import stat
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipeline.process import settings
from stack.errors import HeadraceError, disk_full, tail
from stack.home import state
from stack.home.credentials import MAX_ORDER_ID_KEYS, Credentials, load_or_create, namespace_of, rotate_order_ids
from stack.home.directory import MARKER, Home
from stack.home.state import Part, StackState
from stack.process.proc import identify


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.create()
    return made


def test_the_lock_has_one_holder_and_goes_with_it(home: Home) -> None:
    assert not home.is_held()
    held = home.try_lock()
    assert held is not None
    assert home.try_lock() is None
    assert home.is_held()
    os.close(held)
    assert not home.is_held()


def test_a_lock_file_that_was_purged_is_not_the_lock(home: Home) -> None:
    old = home.try_lock()
    home.purge()
    home.create()
    new = home.try_lock()
    assert old is not None
    assert new is not None
    os.close(old)
    assert home.is_held()
    os.close(new)


def test_a_purge_keeps_the_test_runs_that_still_run(home: Home) -> None:
    living, servers, dead = (Home(home.path / name) for name in ("test-1", "servers", "test-2"))
    for run in (living, servers, dead):
        run.create()
    locks = [run.try_lock() for run in (living, servers)]
    assert {run.path.name for run in home.purge()} == {"test-1", "servers"}
    assert {path.name for path in home.path.iterdir()} == {"test-1", "servers", MARKER}
    for lock in locks:
        assert lock is not None
        os.close(lock)
    assert home.purge() == []
    assert not home.path.exists()


def test_the_lock_names_its_holder_as_long_as_it_lives(home: Home) -> None:
    assert home.holder() is None
    lock = home.try_lock()
    assert lock is not None
    assert home.holder() is None
    home.sign(lock)
    assert home.holder() == os.getpid()
    pid, started = identify(os.getpid())
    for text in (f"{pid} {started + 1}", "1 1", "0 0", "-1 5", "x"):
        home.lock.write_text(text)
        assert home.holder() is None
    os.close(lock)


def test_credentials_are_made_once_for_their_owner_alone(home: Home) -> None:
    made = load_or_create(home.credentials)
    assert load_or_create(home.credentials) == made
    assert stat.S_IMODE(home.credentials.stat().st_mode) == 0o600
    assert len(bytes.fromhex(made.order_id_key)) == 32
    assert len({made.postgres, made.rabbitmq, made.redis}) == 3


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"postgres": "x"}'])
def test_damaged_credentials_are_an_error_that_says_what_to_do(home: Home, damage: str) -> None:
    home.credentials.write_text(damage)
    with pytest.raises(HeadraceError, match="cannot read the credentials") as raised:
        load_or_create(home.credentials)
    assert "--purge" in raised.value.fix


def test_state_survives_the_file(home: Home) -> None:
    written = StackState(
        "ready", identify(os.getpid()), identify(os.getppid()), {"redis": 7}, {"redis": Part("r://", 5)}
    )
    written.save(home)
    assert state.load(home) == written
    assert state.load(home).is_running
    assert stat.S_IMODE(home.state.stat().st_mode) == 0o600


def test_a_reused_pid_is_not_the_supervisor() -> None:
    pid, started = identify(os.getpid())
    assert not StackState("ready", supervisor=(pid, started + 1)).is_running


def _states(*supervisors: object) -> list[str]:
    """State files that are right but for the supervisor."""
    return [json.dumps({**asdict(StackState()), "supervisor": supervisor}) for supervisor in supervisors]


@pytest.mark.parametrize(
    "damage", ["", "null", "{}", json.dumps({"parts": 3}), *_states([0], [1, 5], [-1, 5], ["x", "y"], 7)]
)
def test_a_damaged_state_file_is_the_state_of_nothing(home: Home, damage: str) -> None:
    home.state.write_text(damage)
    assert state.load(home) == StackState()


def test_a_damaged_port_is_not_remembered(home: Home) -> None:
    StackState(ports={"redis": 16379, "postgres": 70_000, "epmd": -1}).save(home)
    assert state.load(home).ports == {"redis": 16379}


def test_a_fallback_that_somebody_else_planted_is_refused(home: Home, tmp_path: Path) -> None:
    home.fallback.symlink_to(tmp_path)
    try:
        with pytest.raises(HeadraceError, match="is not private"):
            home.make_fallback()
        home.purge()
        assert tmp_path.exists()
    finally:
        home.fallback.unlink()


def test_an_unwritable_home_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HeadraceError, match="cannot write the state directory") as raised:
        Home(tmp_path / "file" / "home").create()
    assert "HEADRACE_HOME" in raised.value.fix


def test_an_error_prints_what_cause_fix_log_and_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("".join(f"line {n}\n" for n in range(100)))
    lines = HeadraceError("it failed", "because", "do this", str(log)).lines()
    assert lines[:4] == ["error: it failed", "  cause: because", "  fix:   do this", f"  log:   {log}"]
    assert lines[-1] == "    | line 99"
    assert len(lines) == 4 + 12


def test_the_tail_of_no_log_is_empty(tmp_path: Path) -> None:
    assert tail(tmp_path / "none.log") == []


def test_a_full_disk_is_told_with_what_mends_it(tmp_path: Path) -> None:
    full = disk_full(OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x")), tmp_path)
    assert full
    assert (full.what, "df -h" in full.cause) == (f"cannot write {tmp_path / 'x'}", True)
    assert disk_full(OSError(errno.EPERM, "Operation not permitted"), tmp_path) is None


def test_p5_a_new_key_of_order_ids_is_put_before_the_old_ones_which_go_when_told_to(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    with pytest.raises(HeadraceError):
        rotate_order_ids(path)
    before = load_or_create(path)
    for count in range(2, MAX_ORDER_ID_KEYS + 1):
        assert rotate_order_ids(path) == count
    with pytest.raises(HeadraceError):
        rotate_order_ids(path)
    keys = load_or_create(path).order_id_key.split(",")
    assert keys[-1] == before.order_id_key
    assert len(set(keys)) == MAX_ORDER_ID_KEYS
    assert rotate_order_ids(path, drop_old=True) == 1
    after = load_or_create(path)
    # What Redis remembers keeps its meaning: the namespace is the one that the services derived before.
    assert after == replace(before, order_id_key=keys[0], redis_namespace=namespace_of(before.order_id_key))
    assert after.order_ids["REDIS_NAMESPACE"] == namespace_of(before.order_id_key)
    assert "REDIS_NAMESPACE" not in before.order_ids


def test_the_stack_names_the_namespace_as_the_services_do_also_of_keys_replaced_before_it_was_kept() -> None:
    old, new = "6b" * 32, "7c" * 32
    assert namespace_of(old) == settings.namespace_of(old)
    rotated = Credentials("", "", "", f"{new},{old}")
    assert rotated.order_ids == {"ORDER_ID_KEY": f"{new},{old}", "REDIS_NAMESPACE": namespace_of(old)}
