"""P9, P11: relays that die, freeze or stop lose nothing, and of two no event is sent by both at once."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from database.connection import Connection
from tests.chaos.faults import failpoints
from tests.support.data.orders import new_product_id, order
from tests.support.faults.faults import proxy_to
from tests.support.scenes.events.receiver import OK, Received, Receiver, answer, receiving, saying
from tests.support.services.processes import Service, service_process
from tests.support.services.relay import (
    ALLOWED,
    add_hook,
    attempts_of,
    change_hook,
    decide,
    hook_row,
    new_secret,
    relaying,
)
from tests.support.time.conditions import eventually

A = new_product_id()
KILLED = -signal.SIGKILL


async def is_at(connection: Connection, hook_id: str, offset: int) -> Any:
    row = await hook_row(connection, hook_id)
    return row if row["delivered"] == offset else None


async def leases_pass(connection: Connection) -> None:
    """As after ten seconds."""
    await connection.execute("UPDATE hooks SET held_until = now() - interval '1 ms' WHERE holder IS NOT NULL")
    await connection.execute("UPDATE event_exchange SET held_until = now() - interval '1 ms' WHERE holder IS NOT NULL")


@asynccontextmanager
async def failing(environment: Mapping[str, str], failpoint: str) -> AsyncIterator[Service]:
    variables = {**environment, **ALLOWED, failpoints.VARIABLE: failpoint}
    async with service_process("event_relay", variables, program="tests.chaos.faults.failing") as process:
        yield process


# ── dying


@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize(("name", "repeated"), [("relay.before_send", False), ("relay.sent_before_cursor", True)])
async def test_a_relay_that_is_killed_before_or_after_a_send_loses_nothing_and_repeats_little(
    environment: dict[str, str], connection: Connection, receiver: Receiver, name: str, repeated: bool, nth: int
) -> None:
    orders = [order(A) for _ in range(6)]
    hook_id = await add_hook(connection, receiver.url)
    async with failing(environment, f"{name}:kill:{nth}") as relay:
        for it in orders[:nth]:
            before = len(receiver.requests)
            await decide(connection, it)
            if it is not orders[nth - 1]:
                await eventually(partial(receiver.has_requests, before + 1))
                await eventually(partial(is_at, connection, hook_id, before + 1))
        assert await relay.ended() == KILLED
    assert len(receiver.requests) == (nth if repeated else nth - 1)
    await decide(connection, *orders[nth:])
    await leases_pass(connection)
    async with relaying(environment):
        await eventually(lambda: is_at(connection, hook_id, 6))
    expected = [f"{it.id}.1" for it in orders]
    if repeated:
        expected.insert(nth, expected[nth - 1])
    assert receiver.event_ids == expected


async def test_hooks_of_a_relay_that_died_go_on_in_another_when_its_leases_have_passed(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    hook_id = await add_hook(connection, receiver.url)
    async with relaying(environment) as first, relaying(environment):
        await decide(connection, order(A))
        await eventually(lambda: is_at(connection, hook_id, 1))
        lasts = "SELECT held_until - clock_timestamp() < interval '11 s' FROM hooks WHERE id = $1"
        assert await connection.fetchval(lasts, hook_id)
        await first.stop(signal.SIGKILL)
        await decide(connection, order(A))
        await eventually(lambda: is_at(connection, hook_id, 2), 15)
    assert len(receiver.requests) == 2


# ── two of them


async def test_two_relays_share_hooks_and_none_is_sent_to_by_both_at_once(
    environment: dict[str, str], connection: Connection
) -> None:
    """While hooks are taken from one and the other, again and again, as if it had died."""
    async with receiving() as receiver, relaying(environment), relaying(environment):

        async def a_little_slow(_: Received, writer: asyncio.StreamWriter) -> bool:
            await asyncio.sleep(0.02)
            writer.write(OK)
            return True

        receiver.behave = a_little_slow
        hook_ids = [await add_hook(connection, f"{receiver.url}/{number}") for number in range(8)]
        orders = [order(A) for _ in range(60)]
        for number, it in enumerate(orders):
            await decide(connection, it)
            if number % 20 == 10:
                await connection.execute("UPDATE hooks SET holder = NULL, held_until = NULL WHERE random() < 0.5")
        for hook_id in hook_ids:
            await eventually(partial(is_at, connection, hook_id, 60), 20)
    expected = [f"{it.id}.1" for it in orders]
    for number in range(8):
        got = [it.events[0]["id"] for it in receiver.requests if it.target.endswith(f"/{number}")]
        assert list(dict.fromkeys(got)) == expected  # each, and the first time in order


async def test_two_relays_send_each_event_once_while_nothing_happens_to_them(
    environment: dict[str, str], connection: Connection
) -> None:
    async with receiving() as receiver, relaying(environment) as one, relaying(environment) as other:
        hook_ids = [await add_hook(connection, f"{receiver.url}/{number}") for number in range(10)]
        orders = [order(A) for _ in range(50)]
        for it in orders:
            await decide(connection, it)
        for hook_id in hook_ids:
            await eventually(partial(is_at, connection, hook_id, 50))
        sent = [await it.metric("headrace_webhook_events_total") for it in (one, other)]
    assert len(receiver.requests) == sum(sent) == 500
    for number in range(10):
        got = [it.events[0]["id"] for it in receiver.requests if it.target.endswith(f"/{number}")]
        assert got == [f"{it.id}.1" for it in orders]


async def test_a_relay_that_was_frozen_past_its_lease_sends_nothing_and_moves_no_cursor_back(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    hook_id = await add_hook(connection, receiver.url)
    async with relaying(environment) as frozen:
        await decide(connection, order(A))
        await eventually(lambda: is_at(connection, hook_id, 1))
        frozen.process.send_signal(signal.SIGSTOP)
        await eventually(lambda: frozen.is_stopped)
        orders = [order(A) for _ in range(20)]
        await decide(connection, *orders)
        async with relaying(environment):
            await eventually(lambda: is_at(connection, hook_id, 21), 15)
            sent = len(receiver.requests)
            frozen.process.send_signal(signal.SIGCONT)

            async def it_has_seen_them() -> bool:
                return await frozen.metric("headrace_event_log_offset") == 21

            await eventually(it_has_seen_them)
            assert (await hook_row(connection, hook_id))["delivered"] == 21
            await decide(connection, order(A))
            await eventually(lambda: is_at(connection, hook_id, 22))
            assert len(receiver.requests) == sent + 1
        assert await frozen.stop() == 0
    assert receiver.event_ids[1:21] == [f"{it.id}.1" for it in orders]


# ── stopping


async def test_p9_a_stop_finishes_the_request_in_hand_and_hands_over_at_once(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    asked = asyncio.Event()

    async def slow(_: Received, writer: asyncio.StreamWriter) -> bool:
        asked.set()
        await asyncio.sleep(1)
        writer.write(OK)
        return True

    receiver.behave = slow
    orders = [order(A) for _ in range(3)]
    hook_id = await add_hook(connection, receiver.url)
    async with relaying(environment) as first:
        await decide(connection, *orders)
        await asked.wait()
        async with relaying(environment) as second:
            assert await first.stop() == 0
            receiver.behave = saying(OK)
            await eventually(lambda: is_at(connection, hook_id, 3), 5)
            assert await second.stop() == 0
    assert receiver.event_ids == [f"{it.id}.1" for it in orders]


async def test_p9_a_stop_does_not_wait_for_a_receiver_that_is_silent(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    async def silent(_: Received, __: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(3600)
        return True

    receiver.behave = silent
    only = order(A)
    hook_id = await add_hook(connection, receiver.url)
    async with relaying(environment, stop_grace_s=1) as relay:
        await decide(connection, only)
        await eventually(lambda: receiver.requests)
        assert await relay.stop() == 0
    row = await hook_row(connection, hook_id)
    assert (row["delivered"], row["holder"]) == (0, None)
    receiver.behave = saying(OK)
    async with relaying(environment):
        await eventually(lambda: is_at(connection, hook_id, 1))
    assert receiver.event_ids == [f"{only.id}.1"] * 2


async def test_p9_a_stop_does_not_wait_for_a_postgres_that_is_frozen(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    only = order(A)
    hook_id = await add_hook(connection, receiver.url)
    async with (
        proxy_to(environment["DATABASE_URL"]) as database,
        relaying(environment | {"DATABASE_URL": database.url(environment["DATABASE_URL"])}) as relay,
    ):
        await decide(connection, order(A))
        await eventually(lambda: is_at(connection, hook_id, 1))
        database.swallow()
        began = time.monotonic()
        assert await relay.stop() == 0
        assert time.monotonic() - began < 9  # `docker stop` waits 10 s
    await decide(connection, only)
    await leases_pass(connection)
    async with relaying(environment):
        await eventually(lambda: is_at(connection, hook_id, 2))
    assert receiver.event_ids[-1] == f"{only.id}.1"


# ── what operators do meanwhile


async def test_a_replay_while_a_request_is_under_way_is_not_undone(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    orders = [order(A) for _ in range(5)]
    hook_id = await add_hook(connection, receiver.url)
    async with relaying(environment):
        await decide(connection, *orders[:4])
        await eventually(lambda: is_at(connection, hook_id, 4))
        release = asyncio.Event()

        async def waiting(_: Received, writer: asyncio.StreamWriter) -> bool:
            await release.wait()
            writer.write(OK)
            return True

        receiver.behave = waiting
        await decide(connection, orders[4])
        await eventually(lambda: len(receiver.requests) == 5)
        await change_hook(connection, hook_id, "delivered = 2, retry_at = NULL")
        release.set()
        await eventually(lambda: len(receiver.requests) == 8)
        await eventually(lambda: is_at(connection, hook_id, 5))
    ids = [f"{it.id}.1" for it in orders]
    assert receiver.event_ids == [*ids, *ids[2:]]


async def test_a_replay_of_a_hook_that_rests_begins_at_once(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    orders = [order(A) for _ in range(5)]
    hook_id = await add_hook(connection, receiver.url)
    async with relaying(environment):
        await decide(connection, *orders)
        await eventually(lambda: is_at(connection, hook_id, 5))
        await change_hook(connection, hook_id, "delivered = 3, retry_at = NULL")
        await eventually(lambda: len(receiver.requests) == 7)
    ids = [f"{it.id}.1" for it in orders]
    assert receiver.event_ids == [*ids, *ids[3:]]


async def test_a_paused_hook_gets_nothing_and_a_removed_one_is_forgotten(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    hook_id = await add_hook(connection, receiver.url)
    async with relaying(environment) as relay:
        await decide(connection, order(A))
        await eventually(lambda: is_at(connection, hook_id, 1))
        await change_hook(connection, hook_id, "pause_reason = 'rest'")

        async def paused() -> bool:
            return await relay.metric('headrace_hooks{state="paused"}') == 1

        await eventually(paused)
        await decide(connection, order(A))
        await change_hook(connection, hook_id, "pause_reason = NULL")
        await eventually(lambda: len(receiver.requests) == 2)
        await connection.execute("DELETE FROM hooks WHERE id = $1", hook_id)

        async def forgotten() -> bool:
            return f'headrace_hook_lag_events{{hook="{hook_id}"}}' not in await relay.metrics()

        await eventually(forgotten)
        await decide(connection, order(A))
        other = await add_hook(connection, receiver.url, delivered=2)
        await eventually(lambda: is_at(connection, other, 3))
        assert await relay.stop() == 0
    assert len(receiver.requests) == 3


async def test_both_secrets_sign_after_a_rotation_until_the_old_one_ends(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    hook_id = await add_hook(connection, receiver.url)
    async with relaying(environment):
        await decide(connection, order(A))
        await eventually(lambda: len(receiver.requests) == 1)
        for expires_in, signatures in (("1 h", 2), ("-1 s", 1)):
            await connection.execute("DELETE FROM hook_secrets WHERE expires_at IS NOT NULL")
            await connection.execute(
                f"UPDATE hook_secrets SET expires_at = now() + interval '{expires_in}' WHERE hook_id = $1", hook_id
            )
            await connection.execute(
                "INSERT INTO hook_secrets (hook_id, secret) VALUES ($1, $2)", hook_id, new_secret()
            )
            await change_hook(connection, hook_id, "retry_at = NULL")

            async def signed_so_often(wanted: int = signatures) -> bool:
                before = len(receiver.requests)
                await decide(connection, order(A))
                await eventually(lambda: len(receiver.requests) > before)
                return len(receiver.requests[-1].headers["webhook-signature"].split(" ")) == wanted

            await eventually(signed_so_often)


async def test_secrets_and_tokens_are_in_neither_log_nor_metrics(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    secret = new_secret()
    hook_id = await add_hook(connection, receiver.url + "?token=hunter2", secret=secret)
    receiver.behave = saying(answer(500))
    async with relaying(environment | {"LOG_LEVEL": "debug"}) as relay:
        await decide(connection, order(A))
        await eventually(lambda: attempts_of(connection, hook_id))
        said = relay.log() + str(await relay.metrics())
        assert hook_id in said
        assert secret.removeprefix("whsec_") not in said
        assert "hunter2" not in said
