"""PostgreSQL is stopped, does not answer, or has no room. Orders are accepted meanwhile, and decided afterwards."""

import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from tests.chaos.account.signs import Counts, Logged
from tests.chaos.faults.servers import OwnServers
from tests.chaos.scene.scene import BreakableScene
from tests.support.clients.attacks import quantile
from tests.support.services.workers import connected, locked

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

WORKERS = ("persist_worker", "product_consumer")
# INGEST_API_DATABASE_TIMEOUT_S, and one more for those that came while it passed.
_NOTICED_S = 4.5
_HOLDS = "database fault; holding the batch"
# Of the disk that fills: some 40,000 orders with their indexes.
_DISK_MB = 16


@pytest.mark.parametrize("away_s", [5, pytest.param(20, marks=pytest.mark.deep)])
@pytest.mark.scenario("7", "PostgreSQL stopped at once, back after {away_s} s")
async def test_p1_postgres_is_stopped_at_once_and_comes_back(scene: BreakableScene, away_s: int) -> None:
    """P1, P4: no shutdown in order; it recovers from its log."""
    async with scene.under_load():
        await scene.servers.stop("postgres", signal.SIGQUIT)
        await scene.goes_on(away_s)
        await scene.servers.start("postgres")
        scene.over()
        await scene.recovers()
    await scene.check(
        Logged("persist_worker", _HOLDS),
        # It may have had nothing in hand, and been given nothing to hold since: nobody forwarded anything.
        Logged("product_consumer", _HOLDS, or_words="database not usable"),
        Counts(
            "persist_worker", 'headrace_batch_retries_total{queue="orders.accepted",reason="ConnectionRefusedError"}'
        ),
    )


@pytest.mark.scenario("7", "connections to PostgreSQL cut exactly after COMMIT was sent")
async def test_p2_the_answer_to_a_commit_never_comes(scene: BreakableScene) -> None:
    """P2: it was committed, or it was not. The batch is written again, and the primary key knows."""
    async with scene.under_load():
        for name, failpoint in zip(WORKERS, ("persist.commit_sent", "stock.commit_sent"), strict=True):
            await scene.deployment.stop(name)
            await scene.fails_at(name, f"{failpoint}:cut")
        for name in WORKERS:
            await scene.until_it_says(name, _HOLDS)
        scene.over()
        await scene.recovers()
    await scene.check(
        *(Logged(name, _HOLDS) for name in WORKERS),
        # It was committed, and written again.
        Counts("persist_worker", 'headrace_orders_duplicate_total{stage="persist"}'),
        Counts("product_consumer", 'headrace_orders_duplicate_total{stage="stock"}'),
    )


@pytest.fixture
def short_lived_prices(own_environment: dict[str, dict[str, str]]) -> None:
    """They are old a few seconds after they were looked up, where it would be half a minute."""
    own_environment.setdefault("ingest_api", {})["INGEST_API_CATALOGUE_TTL_S"] = "3"


@pytest.mark.usefixtures("short_lived_prices")
@pytest.mark.scenario("8", "PostgreSQL frozen for 12 s, while the prices at the door become old")
async def test_p8_postgres_is_frozen_and_orders_are_answered_as_fast_as_before(
    scene: BreakableScene, tell: Callable[[str], None]
) -> None:
    """P8, P4: it takes connections, and says nothing. A price that may be used is used, and nobody waits for another.

    The bound is 50 ms. A machine that was slower before the fault may be twice as slow as that: it has other work.
    """
    async with scene.under_load(per_s=200):
        warm_s = time.time()
        await scene.goes_on(3)
        before_s = time.time()
        with scene.servers.frozen("postgres"):
            await scene.goes_on(12)
        scene.over()
        frozen_until_s = time.time()
        await scene.recovers()
    before = took_s(scene, warm_s, before_s)
    meanwhile = took_s(scene, before_s, frozen_until_s, is_keyed=False)
    # One with a key asks PostgreSQL first whether it is stored, until one question has gone without an answer.
    keyed = took_s(scene, before_s + _NOTICED_S, frozen_until_s, is_keyed=True)
    tell(
        f"PostgreSQL frozen for 12 s: p99 {quantile(meanwhile, 0.99) * 1000:.0f} ms of {len(meanwhile)} orders,"
        f" {quantile(before, 0.99) * 1000:.0f} ms before"
    )
    await scene.check(
        Logged("ingest_api", "postgresql for prices is away"),
        Counts("ingest_api", 'headrace_catalogue_lookups_total{source="stale"}'),
    )
    for took in (meanwhile, keyed):
        assert quantile(took, 0.99) <= max(0.05, 2 * quantile(before, 0.99))


def took_s(scene: BreakableScene, since_s: float, until_s: float, *, is_keyed: bool | None = None) -> list[float]:
    """How long the good orders took, each of which was accepted. `is_keyed`: of those with a key, or without one."""
    attempts = [it for it in scene.client.attempts if since_s <= it.sent_s < until_s]
    attempts = [it for it in attempts if is_keyed is None or (it.wanted.key is not None) == is_keyed]
    good = [it for it in attempts if it.wanted.product_id in scene.products and it.wanted.quantity]
    assert {(it.status, it.told if it.status != 202 else "") for it in good} == {(202, "")}
    return [it.ended_s - it.sent_s for it in good if it.ended_s is not None]


@pytest.mark.deep
@pytest.mark.scenario("8", "orders locked in PostgreSQL for 30 s")
async def test_p4_postgres_keeps_everybody_waiting(scene: BreakableScene) -> None:
    """P1, P4, P8: an ACCESS EXCLUSIVE lock, as a careless migration takes it."""
    async with scene.under_load():
        async with locked(scene.database_url, "orders"):
            await scene.goes_on(30)
        scene.over()
        await scene.recovers()
    await scene.check(
        Logged("persist_worker", _HOLDS),
        Counts("persist_worker", 'headrace_batch_retries_total{queue="orders.accepted",reason="55P03"}'),
    )


@pytest.mark.deep
@pytest.mark.scenario("8", "no room for orders on PostgreSQL's disk, for 15 s")
async def test_p4_postgres_has_no_room_for_orders(small_disk: Path, scene: BreakableScene) -> None:
    """P1, P4: a full disk passes. Nothing is parked for it, and nothing is dropped."""
    async with connected(scene.database_url) as connection:
        await connection.execute(f"ALTER TABLE orders SET TABLESPACE {small_disk.name}")
    async with scene.under_load():
        with filled(small_disk):
            await scene.until_it_says("persist_worker", _HOLDS)
            await scene.goes_on(15)
        scene.over()
        await scene.recovers()
    await scene.check(
        Logged("persist_worker", "No space left on device"),
        Counts("persist_worker", 'headrace_batch_retries_total{queue="orders.accepted",reason="53100"}'),
    )


# ── a disk that can be filled


@pytest_asyncio.fixture(loop_scope="session")
async def small_disk(killable: OwnServers) -> AsyncIterator[Path]:
    """A tablespace, named as its directory, on a file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("to mount a small file system takes root, and to fill a real one takes everybody's room")
    with killable.writable_directory("small_disk") as name, mounted(Path(name)) as directory:
        await _execute(killable, f"CREATE TABLESPACE {directory.name} LOCATION '{directory}'")
        yield directory
        await _execute(killable, f"DROP TABLESPACE {directory.name}")


@contextmanager
def mounted(directory: Path) -> Iterator[Path]:
    owner = directory.stat()
    options = f"size={_DISK_MB}m,mode=0700,uid={owner.st_uid},gid={owner.st_gid}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        # Lazily: PostgreSQL may still have a file of the dropped database open.
        subprocess.run(["umount", "--lazy", directory], check=True)


@contextmanager
def filled(directory: Path) -> Iterator[None]:
    """Not a byte is left on this file system."""
    ballast = directory / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        yield
    finally:
        ballast.unlink()


async def _execute(servers: OwnServers, statement: str) -> None:
    connection = await asyncpg.connect(servers.urls.database_url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
