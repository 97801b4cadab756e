"""The schema: applied once, however many start together, and never edited afterwards."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from migrations import __main__ as migrations
from migrations.__main__ import EditedRevision, migrate, wait_until_migrated
from tests.conftest import Servers
from tests.orders import new_product_id
from tests.workers import connected

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


async def test_what_looks_at_all_orders_keeps_no_reader_waiting(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = migrations._revisions()
    until = [path.stem for path in paths].index("0002_order_client") + 1
    is_checked = "SELECT convalidated FROM pg_constraint WHERE conname = 'orders_client_check'"
    async with connected(empty_database) as reader:
        monkeypatch.setattr(migrations, "_revisions", lambda: paths[:until])
        await migrate(empty_database)
        assert await reader.fetchval(is_checked) is False
        assert await reader.fetchval("SELECT to_regclass('orders_of_product_by_client')") is None
        monkeypatch.setattr(migrations, "_revisions", lambda: paths)
        async with reader.transaction(), asyncio.timeout(10):
            await reader.fetch("SELECT FROM orders")  # and holds its lock
            assert await migrate(empty_database) == REVISIONS[until:]
        assert await reader.fetchval(is_checked) is True


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
    expected = "".join(f"applied {name}\n" for name in REVISIONS)
    assert await _run_migrations(empty_database) == (0, expected)
    assert await _run_migrations(empty_database) == (0, "up to date\n")


async def test_the_program_says_what_is_missing() -> None:
    code, output = await _run_migrations(None)
    (line,) = output.splitlines()
    assert (code, line.partition(";")[0]) == (78, "migrations: DATABASE_URL: is not set")
    assert "SECRETS_DIRECTORY" in line
    code, output = await _run_migrations("postgresql://nobody@127.0.0.1:1/nothing")
    assert code == 1
    assert "migrations:" in output


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
