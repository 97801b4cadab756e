"""Everything is killed at once, as by a power cut: the first `up` recovers with all data."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from stack.process import proc
from stack.process.identity import identity_for
from tests.support.services.command import Stack
from tests.support.services.ingest import execute
from tests.support.time.conditions import eventually

TIMES = 2
MARK = (
    "INSERT INTO dead_letters (stage, reason, detail, body, schema_version)"
    " VALUES ('persist', $1, '', convert_to($1, 'UTF8'), 1)"
)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("power") / "home")
    yield stack
    stack.run("down", "--purge")


async def cut_the_power(stack: Stack) -> None:
    """SIGKILL the keeper, the supervisor and all their descendants."""
    state = json.loads(stack.home.state.read_text())
    keeper = state["keeper"][0]
    victims = [keeper, *(process.pid for process in proc.descendants(keeper))]
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not any(_runs(pid) for pid in victims))


def _runs(pid: int) -> bool:
    found = proc.stat_of(pid)
    return found is not None and found.state != "Z"


def lock_file(stack: Stack) -> Path:
    return stack.home.path / "postgres" / "data" / "postmaster.pid"


async def mark(stack: Stack, text: str) -> None:
    await execute(stack.status()["postgres"]["url"], MARK, text)


async def marks(stack: Stack) -> set[str]:
    connection = await asyncpg.connect(stack.status()["postgres"]["url"])
    try:
        return {row["reason"] for row in await connection.fetch("SELECT reason FROM dead_letters")}
    finally:
        await connection.close()


@pytest.mark.deep
@pytest.mark.timeout(300)
async def test_after_everything_was_killed_at_once_the_first_up_has_all_data(stack: Stack) -> None:
    for number in range(TIMES):
        stack.up()
        ports = json.loads(stack.home.state.read_text())["ports"]
        await mark(stack, f"before cut {number}")
        await cut_the_power(stack)
        stack.up()
        assert await marks(stack) >= {f"before cut {earlier}" for earlier in range(number + 1)}
        assert json.loads(stack.home.state.read_text())["ports"] == ports


def run_as_server(*argv: str) -> subprocess.Popen[bytes]:
    """Run as PostgreSQL's user, because PostgreSQL ignores processes of other users."""
    identity = identity_for("postgres")
    return subprocess.Popen(argv, user=identity.uid if identity else None)


@pytest.fixture
def zombie() -> Iterator[int]:
    """The pid of a zombie: it has ended, and its parent has not waited for it."""
    with run_as_server("true") as child:
        while (found := proc.stat_of(child.pid)) and found.state != "Z":
            time.sleep(0.01)
        yield child.pid


@pytest.fixture
def other() -> Iterator[int]:
    with run_as_server("sleep", "600") as child:
        yield child.pid
        child.kill()


@pytest.mark.deep
@pytest.mark.parametrize("what", ["a zombie", "another process", "nothing"])
async def test_a_lock_file_of_postgresql_that_names_no_server_is_in_nobodys_way(
    stack: Stack, zombie: int, other: int, what: str
) -> None:
    stack.up()
    await mark(stack, what)
    await cut_the_power(stack)
    lines = lock_file(stack).read_text().splitlines()
    pid = {"a zombie": zombie, "another process": other, "nothing": None}[what]
    lock_file(stack).write_text("\n".join([str(pid), *lines[1:]]) + "\n" if pid else "")
    stack.up()
    assert what in await marks(stack)


@pytest.mark.deep
async def test_what_outlives_its_keeper_for_a_moment_is_waited_for(stack: Stack) -> None:
    """RabbitMQ takes a second to stop in order. A second node on its files would damage them."""
    stack.up()
    state = json.loads(stack.home.state.read_text())
    for name in ("keeper", "supervisor"):
        os.kill(state[name][0], signal.SIGKILL)
    stack.up()
    nodes = [one for one in stack.processes() if "beam.smp" in one]
    assert len(nodes) == 1, nodes
    assert json.loads(stack.home.state.read_text())["ports"] == state["ports"]
