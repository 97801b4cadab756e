"""`verify --repair` on real servers: an order without a verdict is decided, once, and nothing else is touched."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from database.connection import Connection
from persist_worker.write import prepare, write
from pipeline.broker.publisher import Outcome, Publisher
from pipeline.contract import topology
from pipeline.contract.orders import Order, encode_order, split_body
from proof.audit_sql import SESSION, audit
from proof.offenders import CHECKS, NO_VERDICT
from stack.errors import HeadraceError
from stack.home.directory import ROOT, Home
from stack.operate import publishing
from stack.operate import repair as resend
from stack.operate.verify import verify as verify_here
from tests.support.brokers.broker import plain_channel, send_orders, take, unsettled
from tests.support.data.orders import new_product_id, order
from tests.support.services.processes import service_process
from tests.support.services.workers import (
    add_product,
    assert_conserved,
    connected,
    park,
    product_consumer,
    qty_of,
    settle,
    verdicts,
)
from tests.support.time.conditions import eventually

A = new_product_id()
CREATED = topology.ORDERS_CREATED_QUEUE
NO_SERVER = "amqp://nobody:nothing@127.0.0.1:1/%2F"


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        await prepare(it)
        await add_product(it, A, 10)
        yield it


@pytest.fixture
async def stuck(connection: Connection) -> list[Order]:
    """Stored, and never forwarded: seven units of three, of ten; then four more, which do not fit."""
    quantities = (2, 4, 1, 4)
    them = [order(A, quantity, at_ms=at, request_hash="00ff") for at, quantity in enumerate(quantities)]
    await write(connection, them, [])
    return them


class Done(NamedTuple):
    code: int | None
    out: str
    err: str


async def verify(environment: Mapping[str, str], *arguments: str) -> Done:
    """The command, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stack", "verify", "--lag", "0", *arguments),
        cwd=ROOT,
        env={**os.environ, "HEADRACE_HOME": "/dev/null/home", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return Done(process.returncode, out.decode(), err.decode())


async def found(connection: Connection) -> set[tuple[str, str]]:
    offenders: set[tuple[str, str]] = set()
    await audit(connection, 0, lambda it: offenders.add((it.check, it.id)))
    return offenders


# ── the command


async def test_a_stuck_order_is_decided_once_however_often_it_is_sent_again(
    environment: dict[str, str], connection: Connection, stuck: list[Order]
) -> None:
    async with service_process("product_consumer", environment):
        both = await asyncio.gather(*(verify(environment, "--repair") for _ in range(2)))
    assert [it.code for it in both] == [0, 0], both
    assert any("4 orders resent" in it.out for it in both)
    outcomes = {it.id: None for it in stuck[:3]} | {stuck[3].id: "out_of_stock"}
    assert await verdicts(connection) == outcomes
    assert await qty_of(connection, A) == 3
    await assert_conserved(connection)
    # Now there is nothing to send, and so no broker is needed.
    again = await verify({**environment, "AMQP_URL": NO_SERVER}, "--repair", "--json")
    assert (again.code, json.loads(again.out)["resent"]) == (0, 0)


async def test_a_stuck_order_with_a_letter_of_the_first_worker_is_waited_for_too(
    environment: dict[str, str], connection: Connection, stuck: list[Order]
) -> None:
    """Such a letter is no verdict of an order that is stored: it was not waited for, and the exit code was 1."""
    await settle(connection, stuck[1:])
    await park(connection, stuck[0], stage="persist", reason="id_conflict")
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_created(channel)
    repairing = asyncio.create_task(verify(environment, "--repair"))
    await eventually(lambda: _is_sent(environment), 20)
    async with service_process("product_consumer", environment):
        done = await repairing
    assert done.code == 0, done
    assert stuck[0].id in await verdicts(connection)


async def _is_sent(environment: Mapping[str, str]) -> bool:
    return await unsettled(environment["AMQP_URL"], CREATED) == 1


async def test_a_table_that_somebody_holds_ends_an_audit_with_its_cause(
    connection: Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited for ever: behind a migration that had been forgotten in a terminal, say."""
    assert SESSION["lock_timeout"]
    monkeypatch.setitem(SESSION, "lock_timeout", "200ms")
    monkeypatch.setenv("DATABASE_URL", database_url)
    async with connection.transaction():
        await connection.execute("LOCK TABLE orders")
        with pytest.raises(
            HeadraceError, match="the connection to the database was lost: canceling statement due to lock timeout"
        ):
            await asyncio.to_thread(verify_here, Home(tmp_path), lag_s=0)


async def test_a_report_says_what_is_wrong_and_what_there_is(
    environment: dict[str, str], connection: Connection, stuck: list[Order]
) -> None:
    await settle(connection, stuck[:2])
    done = await verify(environment)
    assert (done.code, done.err) == (1, "")
    *lines, orders, rest, _, verdict = done.out.splitlines()
    assert sorted(line.split()[:2] for line in lines) == sorted(["no_verdict", it.id] for it in stuck[2:])
    assert all(" expected a verdict within 0 s; found none " in line for line in lines)
    assert orders == "4 orders: 2 PROCESSED, 0 FAILED, 2 without a verdict, of which 2 for more than 0 s"
    assert rest == "0 dead letters waiting, 1 product"
    assert verdict == "2 offenders: 2 no_verdict"


@pytest.mark.parametrize("clean", [True, False])
async def test_the_json_is_one_object_of_the_documented_form(
    environment: dict[str, str], connection: Connection, stuck: list[Order], clean: bool
) -> None:
    if clean:
        await settle(connection, stuck)
    done = await verify(environment, "--json")
    report = json.loads(done.out)
    assert list(report) == ["offenders", "checks", "counts", "lag_s", "resent", "waiting", "seconds", "clean"]
    assert (done.code, report["clean"], len(report["offenders"])) == ((0, True, 0) if clean else (1, False, 4))
    assert all(list(it) == ["check", "id", "expected", "found"] for it in report["offenders"])
    assert report["checks"] == {**dict.fromkeys(CHECKS, 0), NO_VERDICT: 0 if clean else 4}
    counts: dict[str, Any] = {"orders": 4, "dead_letters": 0, "discarded": 0, "products": 1}
    counts |= {"processed": 3, "failed": 1, "pending": 0} if clean else {"processed": 0, "failed": 0, "pending": 4}
    assert report["counts"] == counts
    assert (report["lag_s"], report["resent"]) == (0, None)


async def test_a_reader_that_has_had_enough_is_no_fault_of_the_database(
    environment: dict[str, str], connection: Connection
) -> None:
    await write(connection, [order(A) for _ in range(3_000)], [])
    shell = f"{sys.executable} -m stack verify --lag 0 | head -n 1"
    process = await asyncio.create_subprocess_shell(
        shell,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert out.startswith(b"no_verdict ")
    assert err == b""


async def test_what_cannot_be_audited_says_so(servers: Any, database_url: str, environment: dict[str, str]) -> None:
    nothing = {"DATABASE_URL": "", "AMQP_URL": ""}
    for arguments, url, said in (
        ([], "", "error: headrace is not running"),
        ([], "postgresql://nobody@127.0.0.1:1/x", "error: the database does not answer"),
        ([], servers.database_url, "error: this is not a Headrace database"),
        (["--database-url", "mysql://x/y"], "", "error: --database-url is not a usable URL"),
        (["--repair"], database_url, "error: the broker of this database is unknown"),
        (["--repair", "--database-url", database_url], "", "error: --database-url with a password"),
        (["--repair", "--database-url", "postgresql://h/d"], "", "error: the broker of this database is unknown"),
        (["--amqp-url", "amqp://127.0.0.1:1/"], "", "error: --amqp-url without --database-url"),
    ):
        done = await verify({**nothing, "DATABASE_URL": url}, *arguments)
        assert (done.code, done.out) == (1, ""), done
        assert done.err.startswith(said), done.err
        assert "fix:" in done.err


# ── what is sent


async def test_what_is_sent_is_what_persist_worker_sent(
    environment: dict[str, str], connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resend, "MESSAGE_ORDERS", 2)
    them = [
        order(A, 3, price="0.10", at_ms=1, request_hash="00ff", client="shop"),
        order(A, at_ms=2),
        order(A, at_ms=3),
    ]
    await write(connection, them, [])
    for _ in range(2):  # nobody decides them meanwhile
        assert set(await resend.resend(connection, environment["AMQP_URL"], 0)) == {it.id for it in them}
    async with plain_channel(environment["AMQP_URL"]) as channel:
        bodies = [await take(channel, CREATED) for _ in range(4)]
    assert bodies[:2] == bodies[2:]
    assert sorted(it for body in bodies[:2] for it in split_body(body)) == sorted(map(encode_order, them))


async def test_p2_what_was_sent_twice_is_decided_once(
    environment: dict[str, str], connection: Connection, stuck: list[Order]
) -> None:
    for _ in range(2):
        assert len(await resend.resend(connection, environment["AMQP_URL"], 0)) == 4
    async with product_consumer(environment) as worker:
        for _ in range(8):
            if await unsettled(environment["AMQP_URL"], CREATED) or worker.consumer._buffer:
                await worker.run_once()
    assert len(await verdicts(connection)) == 4
    assert await qty_of(connection, A) == 3
    await assert_conserved(connection)


async def test_nothing_but_what_has_no_verdict_is_sent(connection: Connection, stuck: list[Order]) -> None:
    """All else that can be wrong with an order is: and no broker is asked for anything."""
    differs, parked_too, failed, orphan = stuck
    await settle(connection, [differs, parked_too, orphan])
    await park(connection, parked_too)
    await park(connection, failed, stage="stock")
    await connection.execute("UPDATE stock_ledger SET quantity = 9 WHERE order_id = $1", differs.id)
    await connection.execute("DELETE FROM orders WHERE id = $1", orphan.id)
    before = await found(connection)
    assert {check for check, _ in before} >= {"verdict_differs", "two_verdicts", "verdict_without_order", "stock"}
    assert await resend.resend(connection, NO_SERVER, 0) == []
    assert await found(connection) == before


async def test_an_order_younger_than_the_lag_is_not_sent(connection: Connection, stuck: list[Order]) -> None:
    assert await resend.resend(connection, NO_SERVER, 60) == []


async def test_what_is_sent_is_what_the_audit_calls_late(
    environment: dict[str, str], connection: Connection, stuck: list[Order]
) -> None:
    await settle(connection, [stuck[0]])
    await park(connection, stuck[1], stage="persist")
    await park(connection, stuck[2], stage="stock")
    await park(connection, stuck[3], stage="stock", replayed=True)
    late = {id_ for check, id_ in await found(connection) if check == NO_VERDICT}
    assert late == {stuck[1].id, stuck[3].id}
    assert set(await resend.resend(connection, environment["AMQP_URL"], 0)) == late


# ── when it cannot be sent


async def test_a_backlog_is_not_doubled(
    environment: dict[str, str],
    connection: Connection,
    stuck: list[Order],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And nothing is said but that: no traceback, with the broker's password in it."""
    monkeypatch.setattr(resend, "BACKLOG_MESSAGES", 2)
    url = environment["AMQP_URL"]
    async with plain_channel(url) as channel:
        await topology.declare_created(channel)
        for it in stuck[:3]:
            await send_orders(channel, topology.ORDERS_EXCHANGE, topology.ORDER_CREATED, it)
    with pytest.raises(HeadraceError, match=r"3 messages wait in orders\.created"):
        await resend.resend(connection, url, 0)
    assert capsys.readouterr() == ("", "")
    assert await unsettled(url, CREATED) == 3


async def test_a_broker_that_is_away_is_said_to_be(
    connection: Connection, stuck: list[Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "CONNECT_PATIENCE_S", 0.3)
    with pytest.raises(HeadraceError, match="the broker cannot be used") as raised:
        await resend.resend(connection, NO_SERVER, 0)
    assert "RabbitMQ: " in raised.value.cause


@pytest.mark.parametrize("outcome", [it for it in Outcome if it is not Outcome.CONFIRMED])
async def test_what_is_not_confirmed_is_not_said_to_be_sent(
    environment: dict[str, str],
    connection: Connection,
    stuck: list[Order],
    outcome: Outcome,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([Outcome.CONFIRMED, outcome])

    async def publish(*_: object, **__: object) -> Outcome:
        return next(answers)

    monkeypatch.setattr(resend, "MESSAGE_ORDERS", 3)
    monkeypatch.setattr(Publisher, "publish", publish)
    with pytest.raises(HeadraceError, match=r"did not confirm 1 orders .*; 3 were sent before") as raised:
        await resend.resend(connection, environment["AMQP_URL"], 0)
    assert "--repair, again" in raised.value.fix
