"""Parts of the stack, its supervisor or its keeper are killed or stopped: what ends, and what starts again."""

import json
import os
import re
import signal
import socket
import time
from typing import Any

import pytest

from stack.home.state import load
from stack.process.http import get
from stack.process.ports import LOOPBACK
from tests.support.services.command import SERVERS, SERVICES, Stack
from tests.support.time.conditions import eventually


@pytest.mark.parametrize("victim", ["ingest_api", "redis"])
async def test_what_is_killed_comes_back(stack: Stack, victim: str) -> None:
    stack.up()
    os.kill(_part(stack, victim)["pid"], signal.SIGKILL)
    await eventually(lambda: _part(stack, victim)["restarts"] >= 1 and _part(stack, victim)["state"] == "ready", 20)


@pytest.mark.deep
@pytest.mark.timeout(400)
async def test_a_broker_that_is_killed_again_and_again_is_back_within_seconds_of_the_last_time(stack: Stack) -> None:
    stack.up()
    for _ in range(6):
        await eventually(lambda: load(stack.home).parts["rabbitmq"].state == "ready", 60)
        pid = load(stack.home).parts["rabbitmq"].pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: load(stack.home).parts["rabbitmq"].state != "ready", 10)
    log = stack.home.log("supervisor").read_text()
    delays = [float(delay) for delay in re.findall(r"rabbitmq ended .*: again in (\S+) s", log)]
    assert len(delays) >= 6
    assert max(delays) <= 4
    await eventually(lambda: load(stack.home).parts["rabbitmq"].state == "ready", 60)


def _part(stack: Stack, name: str) -> dict[str, Any]:
    status = stack.status()
    part: dict[str, Any] = {**status["services"], **status}[name]
    return part


async def test_nothing_survives_a_killed_supervisor(stack: Stack) -> None:
    stack.up()
    os.kill(stack.status()["supervisor"]["pid"], signal.SIGKILL)
    await eventually(lambda: stack.processes() == [], 10)
    assert stack.run("status", code=3) == "headrace is not running; start it: ./headrace up -d\n"


async def test_nothing_survives_when_the_supervisor_and_its_keeper_are_killed_at_once(stack: Stack) -> None:
    stack.up()
    state = json.loads(stack.home.state.read_text())
    for name in ("keeper", "supervisor"):
        os.kill(state[name][0], signal.SIGKILL)
    await eventually(lambda: stack.processes() == [], 10)


async def test_nothing_survives_an_up_that_is_killed_half_way(stack: Stack) -> None:
    stack.run("down")
    command = stack.start("up", "-d")
    await eventually(lambda: len(stack.processes()) > 8, 30)
    command.kill()
    await eventually(lambda: stack.processes() == [], 20)
    command.communicate()


def test_two_ups_at_once_give_one_stack_and_a_taken_port_shifts(stack: Stack) -> None:
    stack.up()
    stack.run("down")
    taken = json.loads(stack.home.state.read_text())["ports"]["product_api"]
    with socket.create_server((LOOPBACK, taken)):
        commands = [stack.start("up", "-d") for _ in range(2)]
        outputs = [stack.finish(command) for command in commands]
    assert sum("ready in" in output for output in outputs) == 1
    assert sum("running already" in output for output in outputs) == 1
    url = stack.status()["services"]["product_api"]["url"]
    assert url != f"http://{LOOPBACK}:{taken}"
    assert all(url in output for output in outputs)


def test_down_is_quick_and_leaves_nothing_running(stack: Stack) -> None:
    stack.up()
    since = time.monotonic()
    assert stack.run("down").startswith("stopped in ")
    assert time.monotonic() - since < 10
    assert stack.processes() == []
    codes = re.findall(r"INFO (\w+) stopped with exit code (-?\d+)", stack.home.log("supervisor").read_text())
    assert {name: code for name, code in codes if name in SERVICES} == dict.fromkeys(SERVICES, "0")
    assert stack.run("down") == "nothing is running\n"


def test_a_damaged_state_file_keeps_nobody_from_stopping_what_runs(stack: Stack) -> None:
    stack.up()
    stack.home.state.write_text("{")
    assert "./headrace down" in stack.run("up", "-d", code=1)
    assert stack.run("down").startswith("stopped in ")
    assert stack.processes() == []


def test_a_port_that_is_asked_for_wins_and_whoever_has_it_is_named(stack: Stack) -> None:
    stack.up()
    stack.run("down")
    with socket.create_server((LOOPBACK, 0)) as taken, socket.create_server((LOOPBACK, 0)) as free:
        wanted, asked = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        output = stack.run("up", "-d", INGEST_API_PORT=str(wanted), PRODUCT_API_PORT=str(asked))
    assert re.search(rf"ingest_api on {LOOPBACK}:\d+ \({wanted} is taken by .*, pid {os.getpid()}\)", output)
    assert f"product_api on {LOOPBACK}:{asked} " in output
    assert re.search(r"[ \t]$", output, re.MULTILINE) is None
    stack.run("down")


def test_a_step_that_fails_says_why_and_leaves_nothing_running(stack: Stack) -> None:
    stack.run("down")
    output = stack.run("up", "-d", code=1, DATABASE_URL=f"postgresql://u:p@{LOOPBACK}:1/x")
    assert "error: cannot connect to the PostgreSQL that DATABASE_URL names" in output
    assert "unset DATABASE_URL" in output
    assert stack.processes() == []


@pytest.mark.parametrize("server", sorted(SERVERS))
async def test_p1_a_server_that_is_killed_under_load_loses_no_order(stack: Stack, server: str) -> None:
    stack.up()
    status = stack.status()
    ingest_api, pid = status["services"]["ingest_api"]["url"], status[server]["pid"]
    begun = _accepted(ingest_api)
    demo = stack.start("demo", "--orders", "6000", "--clients", "16", "--json")
    await eventually(lambda: _accepted(ingest_api) > begun + 1000, timeout_s=30)
    os.kill(pid, signal.SIGKILL)
    account = json.loads(stack.finish(demo).splitlines()[-1])
    assert account["sent"] == 6000
    assert {name: account[name] for name in ("lost", "duplicated", "oversold")} == dict.fromkeys(
        ("lost", "duplicated", "oversold"), 0
    )
    assert account["decided"] == account["accepted"] > 1000
    assert stack.status()[server]["pid"] != pid


def _accepted(url: str) -> float:
    found = re.search(r"^headrace_orders_accepted_total (\S+)", get(f"{url}/metrics", 5)[1], re.MULTILINE)
    assert found
    return float(found[1])
