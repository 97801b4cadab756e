"""What a killed stack left is waited for, and removed only when nobody can be using it."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stack.errors import HeadraceError
from stack.process import proc
from stack.servers import leftovers
from stack.servers.binaries import Binary
from stack.servers.leftovers import free_data, wait_for_former_server, wait_for_former_services
from stack.servers.place import Place
from tests.support.time.conditions import eventually


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "data").mkdir()
    return Place(Binary(tmp_path, "15.0"), tmp_path, tmp_path / "log", None)


@contextmanager
def running_as(program: str, directory: Path, seconds: str = "60") -> Iterator[subprocess.Popen[bytes]]:
    """A process that the kernel calls `program`, at work in `directory`."""
    path = directory / f"bin-{program}" / program
    path.parent.mkdir()
    shutil.copy("/bin/sleep", path)
    with subprocess.Popen([path, seconds], cwd=directory) as process:
        while proc.arguments_of(process.pid)[:1] != [str(path)]:
            time.sleep(0.01)
        yield process
        process.kill()


@contextmanager
def zombie() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        while (found := proc.stat_of(child.pid)) and found.state != "Z":
            time.sleep(0.01)
        yield child.pid


@contextmanager
def started(*module: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-m", *module], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as it:
        yield it
        it.kill()


async def test_a_lock_file_that_names_a_zombie_is_removed(place: Place) -> None:
    lock = place.directory / "data" / "postmaster.pid"
    with zombie() as pid:
        lock.write_text(f"{pid}\n{place.directory / 'data'}\n")
        await free_data(place)
    assert not lock.exists()


# The ids name no process: the workers of a parallel run have to agree on them.
@pytest.mark.parametrize(
    "text",
    ["", "\0\0\0\0", "x\n", f"{os.getpid()}\n", "1\n", "999999999\n"],
    ids=["empty", "nul", "no number", "this process", "init", "nobody"],
)
async def test_a_lock_file_that_names_nobody_who_works_there_is_removed(place: Place, text: str) -> None:
    lock = place.directory / "data" / "postmaster.pid"
    lock.write_text(text)
    await free_data(place)
    assert not lock.exists()


async def test_the_lock_file_of_a_postgresql_that_works_there_stays(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever pid is in it: a backend may outlive the process that it names."""
    monkeypatch.setattr(leftovers, "PATIENCE_S", 0.3)
    lock = place.directory / "data" / "postmaster.pid"
    lock.write_text("999999999\n")
    with running_as("postgres", place.directory / "data") as former:
        with pytest.raises(HeadraceError, match="postgres of an earlier run") as raised:
            await free_data(place)
        assert raised.value.fix.startswith(f"kill -9 {former.pid},")
        assert former.poll() is None, "it is not ours to kill"
    assert lock.exists()


async def test_what_ends_within_a_moment_is_waited_for(place: Place) -> None:
    with running_as("redis-server", place.directory, seconds="0.5") as former:
        await wait_for_former_server("redis", place)
        assert former.poll() == 0


async def test_others_may_work_there(place: Place) -> None:
    """A shell somebody opened, or the server of another directory."""
    elsewhere = place.directory / "elsewhere"
    elsewhere.mkdir()
    with running_as("bash", place.directory), running_as("redis-server", elsewhere):
        await wait_for_former_server("redis", place)


async def test_a_service_of_the_run_before_is_waited_for_and_a_reused_pid_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leftovers, "PATIENCE_S", 0.3)
    with started("http.server", "0") as other:
        await wait_for_former_services({"ingest_api": other.pid, "product_api": None, "persist_worker": os.getpid()})
    with started("timeit") as service:
        await eventually(lambda: proc.arguments_of(service.pid))
        with pytest.raises(HeadraceError, match="a service of an earlier run still runs"):
            await wait_for_former_services({"timeit": service.pid})
