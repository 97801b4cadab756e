"""The schema: applied once, however many start together, and never edited afterwards."""

import asyncio
import re
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from database.connection import Connection
from migrations import __main__ as migrations
from migrations import progress
from migrations.__main__ import EditedRevision, migrate, wait_until_migrated
from migrations.requirements import Refused
from pipeline.contract.adjustments import Adjustment
from pipeline.contract.cancellations import CancelOutcome
from pipeline.contract.stages import Stage
from product_consumer.decide import CANCELLED, FAILED, PROCESSED
from tests.conftest import Servers
from tests.support.data.orders import new_product_id
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

REVISIONS = [path.stem for path in sorted(Path(migrations.__file__).parent.glob("*.sql"))]


@pytest_asyncio.fixture
async def empty_database(servers: Servers) -> AsyncIterator[str]:
    name = f"empty_{secrets.token_hex(4)}"
    async with connected(servers.database_url) as connection:
        await connection.execute(f"CREATE DATABASE {name}")
        yield urlsplit(servers.database_url)._replace(path=f"/{name}").geturl()
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_all_revisions_are_applied_in_order_and_once(empty_database: str) -> None:
    assert await migrate(empty_database) == REVISIONS
    assert await migrate(empty_database) == []


async def test_the_schema_of_an_earlier_release_can_be_made_and_migrated_later(empty_database: str) -> None:
    assert await migrate(empty_database, REVISIONS[5]) == REVISIONS[:6]
    assert await migrate(empty_database) == REVISIONS[6:]


async def test_many_that_start_together_apply_each_revision_once(empty_database: str) -> None:
    applied = await asyncio.gather(*(migrate(empty_database) for _ in range(5)))
    assert sorted(applied) == [[], [], [], [], REVISIONS]


async def test_who_waits_goes_on_when_another_has_migrated_and_changes_nothing_before(empty_database: str) -> None:
    waiting = asyncio.create_task(wait_until_migrated(empty_database, 0.01))
    await asyncio.wait({waiting}, timeout=0.3)
    assert not waiting.done()
    async with connected(empty_database) as connection:
        assert await connection.fetchval("SELECT to_regclass('schema_revisions')") is None
    await migrate(empty_database)
    async with asyncio.timeout(10):
        await waiting


async def test_who_waits_for_another_text_is_told(empty_database: str) -> None:
    await migrate(empty_database)
    async with connected(empty_database) as connection:
        await connection.execute("UPDATE schema_revisions SET sha256 = 'another' WHERE name = $1", REVISIONS[-1])
    with pytest.raises(EditedRevision, match=REVISIONS[-1]):
        await wait_until_migrated(empty_database)


async def test_a_revision_that_was_edited_is_refused(empty_database: str) -> None:
    await migrate(empty_database)
    async with connected(empty_database) as connection:
        await connection.execute("UPDATE schema_revisions SET sha256 = 'another' WHERE name = $1", REVISIONS[0])
    with pytest.raises(EditedRevision, match=REVISIONS[0]):
        await migrate(empty_database)


async def test_a_revision_that_fails_leaves_nothing_behind(
    empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = tmp_path / "0001_half.sql"
    revision.write_text("CREATE TABLE half (); SELECT 1 / 0;")
    monkeypatch.setattr(migrations, "_revisions", lambda: [revision])
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty_database)
    async with connected(empty_database) as connection:
        assert await connection.fetchval("SELECT to_regclass('half')") is None
        assert await connection.fetchval("SELECT count(*) FROM schema_revisions") == 0


@pytest.mark.parametrize(
    ("locks", "looks", "constraint"),
    [
        ("0002_order_client", "0003_orders_by_client", "orders_client_check"),
        ("0009_order_details", "0010_order_details_valid", "orders_line_count_check"),
    ],
)
async def test_what_looks_at_all_orders_keeps_no_reader_waiting(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, locks: str, looks: str, constraint: str
) -> None:
    paths = migrations._revisions()
    until = [path.stem for path in paths].index(locks) + 1
    is_checked = "SELECT convalidated FROM pg_constraint WHERE conname = $1"
    async with connected(empty_database) as reader:
        monkeypatch.setattr(migrations, "_revisions", lambda: paths[:until])
        await migrate(empty_database)
        assert await reader.fetchval(is_checked, constraint) is False
        monkeypatch.setattr(migrations, "_revisions", lambda: paths[: until + 1])
        async with reader.transaction(), asyncio.timeout(10):
            await reader.fetch("SELECT FROM orders")  # and holds its lock
            assert await migrate(empty_database) == [looks]
        assert await reader.fetchval(is_checked, constraint) is True


async def test_letters_that_were_there_before_keep_the_version_of_their_body(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = migrations._revisions()
    until = [path.stem for path in paths].index("0004_dead_letter_schema")
    monkeypatch.setattr(migrations, "_revisions", lambda: paths[:until])
    await migrate(empty_database)
    letters = [
        ("invalid_data", "22003 numeric field overflow", 1),
        ("unknown_schema", "the message says schema 9; this worker reads 1", 9),
        ("unknown_schema", "the message says schema None; this worker reads 1", None),
        ("unknown_schema", f"the message says schema {10**30}; this worker reads 1", None),
    ]
    async with connected(empty_database) as connection:
        insert = "INSERT INTO dead_letters (stage, reason, detail, body) VALUES ('persist', $1, $2, $3)"
        for number, (reason, detail, _) in enumerate(letters):
            await connection.execute(insert, reason, detail, b"%d" % number)
        monkeypatch.setattr(migrations, "_revisions", lambda: paths)
        await migrate(empty_database)
        rows = await connection.fetch("SELECT schema_version FROM dead_letters ORDER BY id")
    assert [row[0] for row in rows] == [schema for _, _, schema in letters]


@pytest.mark.parametrize(
    ("table", "column", "names"),
    [
        ("dead_letters", "stage", list(Stage)),
        ("stock_adjustments", "reason", list(Adjustment)),
        ("stock_ledger", "outcome", [PROCESSED, FAILED, CANCELLED]),
        ("cancellations", "outcome", list(CancelOutcome)),
    ],
)
async def test_a_check_allows_exactly_the_names_that_the_code_has(
    empty_database: str, table: str, column: str, names: Sequence[str]
) -> None:
    """An applied revision is never edited, so it cannot derive from the code. A new name needs a revision."""
    await migrate(empty_database)
    async with connected(empty_database) as connection:
        constraint = f"{table}_{column}_check"
        check = await connection.fetchval(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = $1", constraint
        )
    assert re.findall(r"'(\w+)'::text", check) == names


async def _run_migrations(database_url: str | None) -> tuple[int | None, str]:
    environment = {} if database_url is None else {"DATABASE_URL": database_url}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "migrations",
        cwd=Path(migrations.__file__).parents[1],
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_the_program_says_what_it_applied(empty_database: str) -> None:
    code, output = await _run_migrations(empty_database)
    assert code == 0
    assert output.endswith("".join(f"applied {name}\n" for name in REVISIONS))
    for name in REVISIONS:
        begins, ends = (
            output.index(f"migrations: {name} begins\n"),
            output.index(f"migrations: {name} is applied, after "),
        )
        assert begins < ends
    assert await _run_migrations(empty_database) == (0, "up to date\n")


async def test_the_program_says_what_is_missing() -> None:
    code, output = await _run_migrations(None)
    (line,) = output.splitlines()
    assert (code, line.partition(";")[0]) == (78, "migrations: DATABASE_URL: is not set")
    assert "SECRETS_DIRECTORY" in line
    code, output = await _run_migrations("postgresql://nobody@127.0.0.1:1/nothing")
    assert code == 1
    assert "migrations:" in output


# ── under limits of others


@pytest.fixture
def slow_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A revision that takes half a second, and nothing else. Its name."""
    revision = tmp_path / "0001_slow.sql"
    revision.write_text("CREATE TABLE slow (); SELECT pg_sleep(0.5);")
    monkeypatch.setattr(migrations, "_revisions", lambda: [revision])
    monkeypatch.setattr(progress, "TELL_EVERY_S", 0.1)
    monkeypatch.setattr(migrations, "TELL_EVERY_S", 0.1)
    return revision.stem


async def _limit(connection: Connection, database_url: str) -> None:
    """As an operator does who wants no long statements of anybody."""
    name = database_url.rpartition("/")[2]
    for setting in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
        await connection.execute(f"ALTER DATABASE {name} SET {setting} = '50ms'")
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")


async def test_limits_for_statements_end_no_revision_and_nobody_who_waits_for_another(
    empty_database: str, slow_revision: str
) -> None:
    async with connected(empty_database) as connection:
        await _limit(connection, empty_database)
        both = await asyncio.gather(migrate(empty_database), migrate(empty_database))
        assert sorted(both) == [[], [slow_revision]]


async def test_whoever_waits_for_another_migration_says_who_that_is(
    empty_database: str, slow_revision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{empty_database}?application_name=psql"
    async with connected(url) as holder:
        await holder.execute("SELECT pg_advisory_lock($1)", migrations._LOCK)
        waiting = asyncio.create_task(migrate(empty_database))
        said = ""

        async def is_told() -> bool:
            nonlocal said
            said += capsys.readouterr().err
            return f"because session {holder.get_server_pid()} (psql, " in said

        await eventually(is_told)
        assert not waiting.done()
        await holder.execute("SELECT pg_advisory_unlock($1)", migrations._LOCK)
        assert await waiting == [slow_revision]


async def test_a_revision_behind_a_lock_says_whose_and_lets_others_through(
    empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    revision = tmp_path / "0001_alter.sql"
    revision.write_text("ALTER TABLE t ADD COLUMN c int")
    monkeypatch.setattr(migrations, "_revisions", lambda: [revision])
    monkeypatch.setattr(progress, "TELL_EVERY_S", 0.1)
    monkeypatch.setitem(migrations._SETTINGS, "lock_timeout", "300ms")
    monkeypatch.setattr(migrations, "_REST_S", 0.3)
    async with connected(empty_database) as reader, connected(empty_database) as other:
        await reader.execute("CREATE TABLE t ()")
        said = ""

        async def is_told() -> bool:
            nonlocal said
            said += capsys.readouterr().err
            return f"0001_alter runs for 0 s, behind session {reader.get_server_pid()} (" in said

        async with reader.transaction():
            await reader.fetch("SELECT FROM t")
            migrating = asyncio.create_task(migrate(empty_database))
            await eventually(is_told)
            async with asyncio.timeout(5):
                await other.fetch("SELECT FROM t")
            assert not migrating.done()
        assert await migrating == ["0001_alter"]


# ── what cannot work


@asynccontextmanager
async def _database(servers: Servers, options: str = "") -> AsyncIterator[str]:
    name = f"refused_{secrets.token_hex(4)}"
    async with connected(servers.database_url) as connection:
        await connection.execute(f"CREATE DATABASE {name} {options}")
        try:
            yield urlsplit(servers.database_url)._replace(path=f"/{name}").geturl()
        finally:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def _role(database_url: str) -> AsyncIterator[tuple[str, str]]:
    """A role that may log in, and nothing else: its name, and the URL to connect with."""
    role, parts = f"poor_{secrets.token_hex(4)}", urlsplit(database_url)
    async with connected(database_url) as connection:
        await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        try:
            yield role, parts._replace(netloc=f"{role}:x@{parts.netloc.rpartition('@')[2]}").geturl()
        finally:
            await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def _is_untouched(database_url: str) -> bool:
    async with connected(database_url) as connection:
        return not await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_that_cannot_hold_every_name_is_refused_before_anything_is_changed(
    servers: Servers, encoding: str
) -> None:
    options = f"ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    async with _database(servers, options) as url:
        code, output = await _run_migrations(url)
        assert code == 1
        assert output.count("\n") == 1
        assert encoding in output
        assert "ENCODING 'UTF8'" in output
        assert await _is_untouched(url)


async def test_a_role_that_may_make_no_tables_is_told_which_grant_it_lacks(empty_database: str) -> None:
    async with connected(empty_database) as connection, _role(empty_database) as (role, url):
        await connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        with pytest.raises(Refused, match=f"GRANT CREATE ON SCHEMA public TO {role}"):
            await migrate(url)
        assert await _is_untouched(empty_database)


async def test_a_role_that_owns_no_table_is_told_whose_they_are(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = migrations._revisions()
    monkeypatch.setattr(migrations, "_revisions", lambda: paths[:1])
    await migrate(empty_database)
    monkeypatch.setattr(migrations, "_revisions", lambda: paths)
    async with connected(empty_database) as connection, _role(empty_database) as (role, url):
        await connection.execute(f"GRANT CREATE ON SCHEMA public TO {role}; GRANT SELECT ON schema_revisions TO {role}")
        with pytest.raises(Refused, match="belongs to headrace"):
            await migrate(url)


async def test_a_role_without_rights_may_see_that_all_is_up_to_date(empty_database: str) -> None:
    await migrate(empty_database)
    async with connected(empty_database) as connection, _role(empty_database) as (role, url):
        await connection.execute(f"GRANT SELECT ON schema_revisions TO {role}")
        assert await migrate(url) == []
        async with asyncio.timeout(10):
            await wait_until_migrated(url)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO products (id, name, price, qty) VALUES ($1, 'a', 1, -1)",
        "INSERT INTO products (id, name, price, qty) VALUES ($1, 'a', -1, 1)",
        "INSERT INTO orders VALUES ($1, $1, 0, 1, 0, now())",
        "INSERT INTO orders VALUES ($1, $1, 2, 1, 3, now())",
        "INSERT INTO orders VALUES ($1, $1, 1, 1, 1, now(), NULL, now(), '')",
        "INSERT INTO stock_ledger VALUES ($1, $1, 0, 'PROCESSED')",
        "INSERT INTO stock_ledger VALUES ($1, $1, 1, 'PENDING')",
        "INSERT INTO stock_ledger VALUES ($1, $1, 1, 'FAILED')",
        "INSERT INTO stock_ledger VALUES ($1, $1, 1, 'PROCESSED', 'with a reason')",
    ],
)
async def test_p3_the_schema_is_the_last_word(database_url: str, statement: str) -> None:
    async with connected(database_url) as connection:
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(statement, new_product_id())
