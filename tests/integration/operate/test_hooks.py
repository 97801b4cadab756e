"""`./headrace hooks` on a real database, with the rights of the operator's role and no others."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import asyncpg
import pytest

from database.connection import Connection
from database.dead_letters import DeadLetter, park
from pipeline.contract.hooks import CHANGED
from pipeline.contract.order_events import encode_cursor
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from stack.operate.hooks import trial
from stack.operate.hooks.sql import rotate_secret
from tests.support.data.orders import new_product_id, order
from tests.support.scenes.events.hook_commands import hooks, make_roles
from tests.support.services.accounts import ONE_AT_A_TIME
from tests.support.services.ingest import insert_product
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

pytestmark = ONE_AT_A_TIME

URL = "https://shop.example/events"


@dataclass
class Relay:
    """Stands in for event_relay: hears that hooks changed, and answers each wish for a test event."""

    database_url: str
    listening: Connection
    status: int | None = 204
    error: str | None = None
    heard: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def on_change(self, *_: object) -> None:
        self.heard += 1
        task = asyncio.create_task(self._answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self) -> None:
        async with connected(self.database_url) as own:
            await own.execute(
                """
                WITH wanted AS (UPDATE hooks SET test_wanted_at = NULL WHERE test_wanted_at IS NOT NULL RETURNING id)
                INSERT INTO hook_attempts (hook_id, events, status, took_ms, answer, error)
                SELECT id, 1, $1, 31, 'said\x1b[2J', $2 FROM wanted
                """,
                self.status,
                self.error,
            )


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """As the database's owner, who may do everything."""
    async with connected(database_url) as it:
        yield it


@pytest.fixture
async def roles(database_url: str) -> Mapping[str, str]:
    return await make_roles(database_url)


@pytest.fixture(autouse=True)
def _as_operator(roles: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", roles["operator"])
    monkeypatch.delenv("AMQP_URL", raising=False)
    monkeypatch.setenv("HEADRACE_HOME", "/nonexistent")
    monkeypatch.setattr(trial, "PATIENCE_S", 0.3)


@pytest.fixture
async def relay(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Relay]:
    monkeypatch.setattr(trial, "PATIENCE_S", 10.0)
    async with connected(database_url) as listening:
        it = Relay(database_url, listening)
        await listening.add_listener(CHANGED, it.on_change)
        yield it


async def added(*options: str) -> dict[str, object]:
    told: dict[str, object] = json.loads((await hooks("add", URL, *options, "--json")).out)
    return told


async def parked(connection: Connection, count: int) -> None:
    """Events, one for each of `count` parked orders."""
    letters = [DeadLetter.of_order(order(new_product_id()), Reason.INVALID_DATA, "") for _ in range(count)]
    await park(connection, Stage.PERSIST, letters)


async def numbered(connection: Connection) -> int:
    last: int = await connection.fetchval("SELECT number_events(1000)")
    return last


async def cursor(connection: Connection, offset: int) -> str:
    return encode_cursor(await connection.fetchval("SELECT id FROM event_log"), offset)


async def test_add_prints_the_secret_alone_on_standard_output_and_what_the_receiver_answered(
    connection: Connection, relay: Relay
) -> None:
    ran = await hooks("add", URL, "--types", "order.failed", "--batch", "100")
    assert len(base64.b64decode(ran.out.removeprefix("whsec_").strip(), validate=True)) == 32
    assert ran.out.count("\n") == 1
    assert f"({URL}) gets order.failed, up to 100 events in a request." in ran.err
    assert "Its secret is shown only now" in ran.err
    assert "Test event: the receiver answered 204 after 31 ms.\n" in ran.err
    row = await connection.fetchrow("SELECT h.*, secret FROM hooks h JOIN hook_secrets s ON s.hook_id = h.id")
    assert row is not None
    assert (row["secret"], row["types"], row["batch"]) == (ran.out.strip(), ["order.failed"], 100)
    assert relay.heard == 1


async def test_a_hook_stays_when_its_test_fails_and_when_no_relay_runs(relay: Relay) -> None:
    relay.status, relay.error = None, "connection refused\x07"
    ran = await hooks("add", URL)
    assert "Test event: no answer after 31 ms: connection refused\\x07.\nThe hook stays" in ran.err
    await relay.listening.remove_listener(CHANGED, relay.on_change)
    trial.PATIENCE_S = 0.3
    ran = await hooks("add", URL)
    assert "The hook stays, but the test event has not been sent: no event_relay runs" in ran.err
    assert len(json.loads((await hooks("list", "--json")).out)) == 2


async def test_a_new_hook_begins_at_the_end_or_where_it_is_told(connection: Connection) -> None:
    await parked(connection, 5)
    assert (await added())["behind"] == 0, "events that have no offset yet lie before it, too"
    assert (await added("--since", "1h"))["behind"] == 5
    told = await added("--after", await cursor(connection, 2))
    assert (told["behind"], told["cursor"], told["test"]) == (3, await cursor(connection, 2), None)


async def test_what_cannot_be_added_is_an_error_and_leaves_nothing(connection: Connection, database_url: str) -> None:
    product = await insert_product(database_url, "1.00", 1)
    assert (await added("--product", product))["product_id"] == product
    missing = new_product_id()
    for arguments, what in (
        (["--product", missing], f"there is no product {missing}"),
        (["--types", "x"], "there is no event of type 'x'"),
        (["--after", encode_cursor(2**32 - 1, 0)], "the cursor is of another log"),
        (["--after", await cursor(connection, 1)], "the cursor is beyond the end of the log"),
        (["--after", "now", "--since", "2h"], "both --after and --since are given"),
        (["--since", "2999-01-01"], "--since 2999-01-01T00:00:00+00:00 is in the future"),
    ):
        ran = await hooks("add", URL, *arguments)
        assert ran.error is not None
        assert ran.error.what == what
        assert ran.error.cause
        assert ran.error.fix
    assert await connection.fetchval("SELECT count(*) FROM hooks") == 1


async def test_list_and_show_tell_lag_and_the_last_error_and_no_secret(connection: Connection) -> None:
    assert "no hooks" in (await hooks("list")).out
    told = await added()
    await parked(connection, 3)
    await numbered(connection)
    await parked(connection, 1)
    await connection.execute(
        "UPDATE hooks SET failing_since = '2026-01-31T09:00Z', failures = 7, last_error = E'500 \\x1b[2J',"
        " created_at = now() - interval '1 h'"
    )
    await connection.execute(
        "INSERT INTO hook_attempts (hook_id, first_offset, last_offset, events, status, took_ms, answer)"
        " VALUES ($1, 1, 3, 3, 500, 12, E'oh\\x1b]0;no')",
        told["id"],
    )
    short = str(told["id"])[:8]
    ran = await hooks("list")
    assert f"{short} is failing: since 2026-01-31T09:00:00Z, attempts: 7; the last: 500 \\x1b[2J\n" in ran.out
    assert f"no event_relay sends to {short}: ./headrace status\n" in ran.out
    row = ran.out.splitlines()[1].split("  ")
    assert row[:2] == [short, "failing"]
    assert row[2].startswith("4, ")
    shown = (await hooks("show", str(told["id"])[:4])).out
    assert "behind        4, " in shown
    assert r"oh\x1b]0;no" in shown
    listed = json.loads((await hooks("show", str(told["id"]), "--json")).out)
    assert (listed["state"], listed["behind"], listed["relay_sends"]) == ("failing", 4, False)
    (attempt,) = listed["attempts"]
    assert (attempt["status"], attempt["events"], attempt["is_test"]) == (500, 3, False)
    assert [it["expires_at"] for it in listed["secrets"]] == [None]
    assert "whsec_" not in ran.out + shown + json.dumps(listed)


async def test_an_id_that_is_unknown_or_not_unique_is_an_error(connection: Connection) -> None:
    for tail in ("1", "2"):
        await connection.execute(
            "INSERT INTO hooks (id, url, delivered) VALUES ($1, 'http://x', 0)",
            f"abcdef00-0000-0000-0000-00000000000{tail}",
        )
    for wrong, what in (("0000", "there is no hook 0000"), ("ABCDEF00", "more than one hook is ABCDEF00")):
        ran = await hooks("pause", wrong)
        assert ran.error is not None
        assert (ran.error.what, bool(ran.error.fix)) == (what, True)
    assert "paused hook abcdef00" in (await hooks("pause", "abcdef00-0000-0000-0000-000000000002")).out


async def test_pause_and_resume_change_nothing_but_whether_it_is_sent_to(relay: Relay) -> None:
    hook = str((await added())["id"])
    paused = json.loads((await hooks("pause", hook, "--reason", "they migrate", "--json")).out)
    assert (paused["state"], paused["pause_reason"]) == ("paused", "they migrate")
    assert f"{hook[:8]} is paused: they migrate\n" in (await hooks("list")).out
    resumed = json.loads((await hooks("resume", hook, "--json")).out)
    assert (resumed["state"], resumed["cursor"]) == ("active", paused["cursor"])
    await eventually(lambda: relay.heard == 3)


async def test_replay_moves_the_hook_and_says_how_many_events_come_again(connection: Connection) -> None:
    await parked(connection, 9)
    hook = str((await added())["id"])
    ran = await hooks("replay", hook, "--after", await cursor(connection, 4))
    assert "sent again: 5 events\n" in ran.out
    told = json.loads((await hooks("replay", hook, "--since", "2h", "--json")).out)
    assert (told["events_again"], told["events_skipped"], told["behind"]) == (4, 0, 9)
    assert "skipped: 9 events" in (await hooks("replay", hook, "--after", "now")).out
    some = str((await added("--types", "order.failed"))["id"])
    assert "sent again: at most 9 events\n" in (await hooks("replay", some, "--since", "2h")).out
    for arguments, what in (
        ([], "nothing says from where to replay"),
        (["--after", encode_cursor(2**32 - 1, 0)], "the cursor is of another log"),
        (["--after", await cursor(connection, 10)], "the cursor is beyond the end of the log"),
    ):
        refused = await hooks("replay", hook, *arguments)
        assert refused.error is not None
        assert refused.error.what == what
    assert json.loads((await hooks("show", hook, "--json")).out)["behind"] == 0


async def test_after_a_rotation_the_old_secret_signs_for_another_day(connection: Connection) -> None:
    told = await added()
    ran = await hooks("rotate", str(told["id"]))
    assert ran.out.startswith("whsec_")
    assert "the old secret signs as well" in ran.err
    query = "SELECT secret, expires_at, extract(epoch FROM expires_at - now()) AS left_s FROM hook_secrets ORDER BY 1"
    found = {it["secret"]: it["left_s"] for it in await connection.fetch(query)}
    assert found[ran.out.strip()] is None
    assert 86_300 < float(found[told["secret"]]) <= 86_400


async def test_of_two_rotations_at_once_the_later_one_is_current(roles: Mapping[str, str]) -> None:
    hook = str((await added())["id"])

    async def rotate(secret: str) -> None:
        async with connected(roles["operator"]) as operator:
            await rotate_secret(operator, hook, secret)

    await asyncio.gather(*(rotate(f"whsec_{it}") for it in range(4)))
    secrets = json.loads((await hooks("show", hook, "--json")).out)["secrets"]
    assert [it["expires_at"] is None for it in secrets] == [True, False, False, False, False]


async def test_remove_asks_and_takes_secrets_and_attempts_with_it(connection: Connection) -> None:
    hook = str((await added())["id"])
    ran = await hooks("remove", hook)
    assert ran.error is not None
    assert ran.error.what == "nobody can be asked"
    assert "--yes" in ran.error.fix
    assert "removed hook" in (await hooks("remove", hook, "--yes")).out
    assert await connection.fetchval("SELECT count(*) FROM hook_secrets") == 0
    ran = await hooks("remove", hook, "--yes")
    assert ran.error is not None
    assert ran.error.what == f"there is no hook {hook}"


async def test_a_test_event_that_is_not_taken_is_exit_1(relay: Relay) -> None:
    hook = str((await added())["id"])
    assert "the receiver answered 204 after 31 ms\n" in (await hooks("test", hook)).out
    relay.status = 500
    ran = await hooks("test", hook)
    assert ran.error is not None
    assert ran.error.what == f"{URL} did not take a test event"
    assert ran.error.cause == "the receiver answered 500 after 31 ms: said\\x1b[2J"
    assert ran.error.fix == f"./headrace hooks show {hook[:8]}"
    told = json.loads((await hooks("show", hook, "--json")).out)
    assert [it["is_test"] for it in told["attempts"]] == [True, True, True]


async def test_the_operator_cannot_read_a_secret(roles: Mapping[str, str]) -> None:
    await added()
    async with connected(roles["operator"]) as operator:
        for statement in (
            "SELECT secret FROM hook_secrets",
            "SELECT * FROM hook_secrets",
            "SELECT 1 FROM hook_secrets WHERE secret LIKE 'whsec\\_A%'",
            "UPDATE hook_secrets SET secret = secret",
            "UPDATE hook_secrets SET expires_at = now() RETURNING secret",
            "COPY hook_secrets TO STDOUT",
            "INSERT INTO hook_attempts (hook_id, events, took_ms) SELECT id, 1, 1 FROM hooks",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await operator.execute(statement)


async def test_a_database_that_is_away_is_an_error_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:secret@127.0.0.1:1/x")
    ran = await hooks("list")
    assert ran.error is not None
    assert ran.error.what == "cannot read the hooks in postgresql://u@127.0.0.1:1/x"
