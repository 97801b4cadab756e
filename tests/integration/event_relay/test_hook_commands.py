"""`./headrace hooks` with event_relay and the receiver of docs/api/events.md, each with its own account."""

import json
from asyncio.subprocess import Process
from typing import Any

import pytest

from database.connection import Connection
from stack.operate.hooks import trial
from tests.support.data.orders import new_product_id, order
from tests.support.data.samples import sample_with
from tests.support.scenes.events.hook_commands import hooks, make_roles
from tests.support.services.accounts import ONE_AT_A_TIME
from tests.support.services.processes import free_port
from tests.support.services.relay import decide, relaying
from tests.support.services.scripts import line_of, script
from tests.support.time.conditions import eventually

pytestmark = ONE_AT_A_TIME

# Two processes, and a connection for each command: seconds on an idle machine, more beside other tests.
PATIENCE_S = 60


async def told(*arguments: str) -> dict[str, Any]:
    """What a command prints as JSON."""
    ran = await hooks(*arguments, "--json")
    assert ran.error is None
    return dict(json.loads(ran.out))


async def is_up_to_date(hook: str) -> bool:
    return bool((await told("show", hook))["behind"] == 0)


async def test_p11_a_receiver_counts_every_event_once_through_a_replay_and_a_rotation(
    environment: dict[str, str], database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles = await make_roles(database_url)
    monkeypatch.setenv("DATABASE_URL", roles["operator"])
    monkeypatch.setenv("HEADRACE_HOME", "/nonexistent")
    monkeypatch.setattr(trial, "PATIENCE_S", PATIENCE_S)
    port = free_port()
    async with relaying({**environment, "DATABASE_URL": roles["event_relay"]}):
        ran = await hooks("add", f"http://127.0.0.1:{port}/", "--batch", "10")
        assert "Test event: no answer" in ran.err
        secret = ran.out.strip()
        ((hook,),) = [[str(it["id"]) for it in json.loads((await hooks("list", "--json")).out)]]
        receiver = sample_with("docs/api/events.md", "class Receiver")
        async with script(receiver, {"SECRET": secret, "PORT": str(port)}) as process:
            await eventually(lambda: answers(hook), PATIENCE_S)
            ids = await decided(connection, 25)
            assert await counted(process, 25) == (list(range(1, 26)), ids)
            await eventually(lambda: is_up_to_date(hook), PATIENCE_S)
            assert (await told("replay", hook, "--since", "1h"))["events_again"] == 25
            await told("rotate", hook)
            assert (await told("test", hook))["status"] == 204, "the old secret signs as well"
            await eventually(lambda: is_up_to_date(hook), PATIENCE_S)
            await told("pause", hook)
            more = await decided(connection, 3)
            assert (await told("test", hook))["status"] == 204, "a paused hook is tested, too"
            assert (await told("show", hook))["behind"] == 3
            await told("resume", hook)
            assert await counted(process, 3) == ([26, 27, 28], more)
            shown = await told("show", hook)
            assert (shown["state"], shown["relay_sends"], len(shown["secrets"])) == ("active", True, 2)
            assert (await hooks("remove", hook, "--yes")).error is None


async def decided(connection: Connection, count: int) -> set[str]:
    """Decide so many orders. Returns their ids."""
    orders = [order(new_product_id()) for _ in range(count)]
    await decide(connection, *orders)
    return {it.id for it in orders}


async def answers(hook: str) -> bool:
    return (await hooks("test", hook)).error is None


async def counted(process: Process, count: int) -> tuple[list[int], set[str]]:
    """What the receiver prints of so many events: its count, and the ids of their orders."""
    printed = [(await line_of(process)).split() for _ in range(count)]
    assert {type_ for _, _, type_ in printed} == {"order.failed"}
    return [int(number) for number, _, _ in printed], {event_id.removesuffix(".1") for _, event_id, _ in printed}
