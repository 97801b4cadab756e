"""`./headrace verify` as a process: its report, its JSON, its exit codes, and what it cannot audit."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from database.connection import Connection
from persist_worker.write import prepare, write
from pipeline.contract.orders import Order
from proof.audit_sql import SESSION
from proof.offenders import CHECKS, NO_VERDICT
from stack.errors import HeadraceError
from stack.home.directory import ROOT, Home
from stack.operate.verify import verify as verify_here
from tests.support.data.orders import new_product_id, order
from tests.support.scenes.verify_command import verify
from tests.support.services.workers import add_product, connected, settle

A = new_product_id()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        await prepare(it)
        await add_product(it, A, 10)
        yield it


@pytest.fixture
async def stuck(connection: Connection) -> list[Order]:
    """Stored orders that were never forwarded: seven of ten units in three orders, then four, which do not fit."""
    quantities = (2, 4, 1, 4)
    them = [order(A, quantity, at_ms=at, request_hash="00ff") for at, quantity in enumerate(quantities)]
    await write(connection, them, [])
    return them


async def test_a_table_that_somebody_holds_ends_an_audit_with_its_cause(
    connection: Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a limit it would wait for ever, for example behind a forgotten migration."""
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
    assert list(report) == [
        *("offenders", "checks", "counts", "lag_s", "resent", "resent_cancellations", "waiting", "seconds", "clean")
    ]
    assert (done.code, report["clean"], len(report["offenders"])) == ((0, True, 0) if clean else (1, False, 4))
    assert all(list(it) == ["check", "id", "expected", "found"] for it in report["offenders"])
    assert report["checks"] == {**dict.fromkeys(CHECKS, 0), NO_VERDICT: 0 if clean else 4}
    counts: dict[str, Any] = {"orders": 4, "cancelled": 0, "dead_letters": 0, "discarded": 0, "products": 1}
    counts |= {"processed": 3, "failed": 1, "pending": 0} if clean else {"processed": 0, "failed": 0, "pending": 4}
    assert report["counts"] == counts
    assert (report["lag_s"], report["resent"], report["resent_cancellations"]) == (0, None, None)


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
