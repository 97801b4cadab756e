"""`./headrace dead` against servers that the environment names, as in any deployment."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aio_pika.abc import AbstractChannel
from aiormq.exceptions import DeliveryError

from database.connection import Connection
from database.dead_letters import DeadLetter, park
from pipeline.contract import topology
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from stack.errors import HeadraceError
from stack.home.directory import Home
from stack.operate import publishing
from stack.operate.dead.dead import replay_letters
from stack.operate.dead.sql import Filters
from tests.conftest import Servers
from tests.support.brokers.broker import gets_back, plain_channel, send
from tests.support.brokers.dead_letters import headrace_dead
from tests.support.data.orders import body_of, new_product_id, order
from tests.support.scenes.ingest_faults import limit_queues
from tests.support.services.ingest import execute
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

A = new_product_id()
ACCEPTED = topology.ORDERS_ACCEPTED_QUEUE


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        yield it


async def everything(connection: Connection) -> list[object]:
    return list(await connection.fetch("SELECT * FROM dead_letters ORDER BY id"))


async def test_the_list_has_what_waits_and_json_has_all_of_it(
    environment: dict[str, str], connection: Connection
) -> None:
    assert await headrace_dead(environment, "list") == ("0 waiting to be replayed\n", "")
    first, second = order(A), order(A)
    await park(
        connection, Stage.PERSIST, [DeadLetter.of_order(first, Reason.INVALID_DATA, "22003 numeric field overflow")]
    )
    await park(connection, Stage.STOCK, [DeadLetter(second.id, Reason.UNKNOWN_SCHEMA, "it\x1b[31ms", b"[9]", 9)])
    shown, _ = await headrace_dead(environment, "list")
    head, latest, oldest, *_ = shown.splitlines()
    assert head.split() == ["id", "order", "stage", "reason", "first", "seen", "settled", "detail"]
    assert second.id in latest
    assert r"it\x1b[31ms" in latest
    assert first.id in oldest
    assert "2 waiting to be replayed: 1 persist invalid_data, 1 stock unknown_schema\n" in shown
    (letter,) = json.loads((await headrace_dead(environment, "list", "--json", "--stage", "stock"))[0])
    assert letter.pop("id")
    assert letter.pop("first_seen_at").endswith("+00:00")
    assert letter == {
        "order_id": second.id,
        "stage": "stock",
        "reason": "unknown_schema",
        "detail": "it\x1b[31ms",
        "schema_version": 9,
        "replayed_at": None,
        "discarded_at": None,
        "discard_reason": None,
        "body_bytes": 3,
    }
    await connection.execute("UPDATE dead_letters SET replayed_at = now() WHERE stage = 'stock'")
    assert second.id not in (await headrace_dead(environment, "list"))[0]
    assert second.id in (await headrace_dead(environment, "list", "--replayed", "--limit", "1"))[0]


async def test_show_shows_all_of_a_letter_and_nothing_that_a_terminal_obeys(
    environment: dict[str, str], connection: Connection
) -> None:
    body = b'\x1b]0;owned\x07\xff [{"id": "\xe2\x80\xae"}]\n' + b"x" * 5000
    await park(connection, Stage.STOCK, [DeadLetter(None, Reason.UNREADABLE, "no JSON\x9b2J\nreason     good", body)])
    (letter_id,) = await connection.fetchrow("SELECT id FROM dead_letters") or [0]
    shown, _ = await headrace_dead(environment, "show", str(letter_id))
    assert all(it.isprintable() for it in shown.splitlines())
    assert "stage      stock: a replay sends it to order.created\n" in shown
    assert "detail     no JSON\\x9b2J\\nreason     good\n" in shown
    assert shown.endswith('\\x1b]0;owned\\x07\\xff [{"id": "\\u202e"}]\\n' + "x" * 5000 + "\n")
    _, err = await headrace_dead(environment, "show", "999", code=1)
    assert err.startswith("error: there is no dead letter 999\n")


async def test_a_dry_run_counts_and_changes_nothing(environment: dict[str, str], connection: Connection) -> None:
    await park(connection, Stage.PERSIST, [DeadLetter.of_order(order(A), Reason.INVALID_DATA, "") for _ in range(3)])
    before = await everything(connection)
    nowhere = {**environment, "AMQP_URL": "amqp://nobody@127.0.0.1:1/"}
    shown, _ = await headrace_dead(nowhere, "replay", "--dry-run", "--limit", "2")
    assert shown == "would replay 2 of 3 waiting dead letters: 2 persist invalid_data\n"
    limited = json.loads((await headrace_dead(nowhere, "replay", "--dry-run", "--limit", "2", "--json"))[0])
    assert limited == [{"stage": "persist", "reason": "invalid_data", "count": 2}]
    assert json.loads((await headrace_dead(nowhere, "replay", "--dry-run", "--json"))[0]) == [
        {"stage": "persist", "reason": "invalid_data", "count": 3}
    ]
    assert await everything(connection) == before


async def test_replay_sends_what_waits_says_how_many_and_may_be_done_again(
    environment: dict[str, str], connection: Connection
) -> None:
    orders = [order(A) for _ in range(3)]
    await park(connection, Stage.PERSIST, [DeadLetter.of_order(it, Reason.INVALID_DATA, "") for it in orders])
    shown, err = await headrace_dead(environment, "replay", "--order", orders[1].id)
    assert (shown, err) == ("replayed 1 dead letters: 1 to order.accepted\n", "")
    shown, _ = await headrace_dead(environment, "replay", "--json", "--rate", "1000")
    assert json.loads(shown) == {"replayed": {"persist": 2}, "unconfirmed": {}}
    assert await headrace_dead(environment, "replay") == ("replayed 0 dead letters\n", "")
    await gets_back(environment["AMQP_URL"], ACCEPTED, 3)


async def test_what_is_asked_for_in_the_wrong_way_is_an_error_that_says_how(environment: dict[str, str]) -> None:
    _, err = await headrace_dead(environment, "list", "--since", "yesterday", code=1)
    assert err.startswith("error: 'yesterday' is not a time\n  cause: a time is 2026-01-31T09:00")
    for wrong in (["--stage", "x"], ["--product", "x"], ["--limit", "0"], ["--id", "x"]):
        await headrace_dead(environment, "list", *wrong, code=2)
    alone = {"DATABASE_URL": environment["DATABASE_URL"], "AMQP_URL": ""}
    _, err = await headrace_dead(alone, "replay", code=1)
    assert err.startswith("error: the broker of this database is unknown\n")
    _, err = await headrace_dead({"DATABASE_URL": "postgresql://u:secret@127.0.0.1:1/x"}, "list", code=1)
    assert err.startswith("error: cannot read the dead letters in postgresql://u@127.0.0.1:1/x\n")


@pytest.fixture
def _servers(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "AMQP_URL"):
        monkeypatch.setenv(name, environment[name])


@pytest.mark.usefixtures("_servers")
def test_without_a_broker_nothing_is_marked_and_the_error_says_so(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = "INSERT INTO dead_letters (stage, reason, detail, body) VALUES ('persist', 'x', '', $1)"
    asyncio.run(execute(environment["DATABASE_URL"], insert, body_of(order(A))))
    monkeypatch.setattr(publishing, "CONNECT_PATIENCE_S", 0.3)
    monkeypatch.setenv("AMQP_URL", "amqp://nobody@127.0.0.1:1/")
    with pytest.raises(HeadraceError) as raised:
        replay_letters(Home(tmp_path), Filters(), dry_run=False, limit=None, rate=100, as_json=False)
    assert raised.value.what == "the broker cannot be used"
    assert "RabbitMQ" in raised.value.cause
    assert asyncio.run(_waiting(environment)) == 1


async def _waiting(environment: dict[str, str]) -> int:
    async with connected(environment["DATABASE_URL"]) as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM dead_letters WHERE replayed_at IS NULL")
        return count


async def test_what_the_broker_does_not_confirm_is_exit_1_and_waits(
    environment: dict[str, str], connection: Connection, servers: Servers
) -> None:
    await park(connection, Stage.PERSIST, [DeadLetter.of_order(order(A), Reason.INVALID_DATA, "") for _ in range(2)])
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_accepted(channel)
        await limit_queues(servers, environment["AMQP_URL"], 1)
        await eventually(lambda: is_full(channel))
    shown, err = await headrace_dead(environment, "replay", code=1)
    assert shown == "replayed 0 dead letters\nnot confirmed: 2 refused\n"
    assert err.startswith(
        "error: the broker did not confirm 2 dead letters, which keep waiting\n  cause: the queue is full\n"
    )
    assert await _waiting(environment) == 2


async def is_full(channel: AbstractChannel) -> bool:
    """After one more message, because a quorum queue accepts a few past its limit."""
    try:
        await send(channel, topology.ORDERS_EXCHANGE, topology.ORDER_ACCEPTED, b"[]")
    except DeliveryError:
        return True
    return False
