"""Apply the missing revisions, each once, however many replicas start together.

python -m migrations            reads DATABASE_URL as the services do; exits 0 when the schema is up to date
python -m migrations --wait     changes nothing: waits until another process has brought the schema up to date

Prints each revision as it begins and ends. While one runs or waits, prints every few seconds which sessions block it.
Only an error ends a revision: statement limits of the role, the database or the server do not apply. Refuses, before
it changes anything, a database in which Headrace cannot work.
"""

import asyncio
import hashlib
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from database.connection import Connection
from database.faults import describe, fault_of
from database.sessions import open_session
from migrations.privileges import grant
from migrations.progress import TELL_EVERY_S, name_of, tell, telling
from migrations.requirements import Refused, require
from pipeline.process.logs.configure import protect_streams
from pipeline.process.settings import DatabaseSettings, load_or_exit

# One advisory lock for every process that migrates this database: the first 8 bytes of sha256("headrace migrations"),
# as a signed bigint.
_LOCK = int.from_bytes(hashlib.sha256(b"headrace migrations").digest()[:8], "big", signed=True)
_LOOK_FOR_LOCK_EVERY_S = 0.5
_HOLDERS = """
    SELECT a.pid, a.application_name, a.usename, a.state FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND (l.classid::bigint << 32 | l.objid::bigint) = $1
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

_CONNECT_TIMEOUT_S = 10.0
# For every statement outside a revision.
_ANSWER_TIMEOUT_S = 30.0
# A revision may run for any time. But while it waits for a table's lock, everybody else queues behind it, so it gives
# up after lock_timeout, lets them through, and tries again.
_SETTINGS = {"statement_timeout": "0", "lock_timeout": "4s"}
_LOCK_TRIES = 200
_REST_S = 1.0


class EditedRevision(Exception):
    """A revision file differs from the text that was applied to the database."""


async def migrate(database_url: str, last: str | None = None) -> list[str]:
    """Apply the missing revisions and return their names. Raises EditedRevision, Refused, asyncpg errors.

    `last`: the last one to apply, for the schema of an earlier release. None: all.
    """
    async with _session(database_url) as connection:
        await require(connection, changes=bool(_missing(await _known(connection))))
        await _lock(connection)
        missing = [it for it in _missing(await _known(connection)) if last is None or it.stem <= last]
        if missing:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                await connection.execute(
                    "CREATE TABLE IF NOT EXISTS schema_revisions"
                    " (name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
                )
        for path in missing:
            await _apply(connection, database_url, path)
        if last is None:
            await grant(connection)
        return [path.stem for path in missing]


@asynccontextmanager
async def _session(database_url: str) -> AsyncIterator[Connection]:
    connection = await open_session(
        database_url, "headrace migrations", timeout_s=_CONNECT_TIMEOUT_S, settings=_SETTINGS
    )
    try:
        yield connection
    finally:
        connection.terminate()  # its transaction is over, and the lock ends with the session


def _revisions() -> list[Path]:
    return sorted(Path(__file__).parent.glob("[0-9]*.sql"))


async def _known(connection: Connection) -> dict[str, str]:
    """The digest of each applied revision, by name."""
    async with asyncio.timeout(_ANSWER_TIMEOUT_S):
        if await connection.fetchval("SELECT to_regclass('schema_revisions')") is None:
            return {}
        rows = await connection.fetch("SELECT name, sha256 FROM schema_revisions")
    return {row["name"]: row["sha256"] for row in rows}


def _missing(known: Mapping[str, str]) -> list[Path]:
    """The revisions that the database lacks. Raises EditedRevision before anything is applied."""
    for path in _revisions():
        digest = _digest(path)
        if known.get(path.stem, digest) != digest:
            raise EditedRevision(f"{path.name} was applied with another text; put it back and add a new revision")
    return [path for path in _revisions() if path.stem not in known]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_text().encode()).hexdigest()


async def _lock(connection: Connection) -> None:
    """Wait for the migration lock. The session holds it, so even kill -9 releases it.

    Polls rather than blocks, so that no statement limit applies and progress can name the session that holds it.
    """
    began = told_at = time.monotonic()
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK, timeout=_ANSWER_TIMEOUT_S):
        if time.monotonic() - told_at >= TELL_EVERY_S:
            told_at = time.monotonic()
            holders = await connection.fetch(_HOLDERS, _LOCK, timeout=_ANSWER_TIMEOUT_S)
            who = " and ".join(map(name_of, holders)) or "another session"
            tell(f"waits for {told_at - began:.0f} s already, because {who} migrates this database")
        await asyncio.sleep(_LOOK_FOR_LOCK_EVERY_S)


async def _apply(connection: Connection, database_url: str, path: Path) -> None:
    """Apply one revision in one transaction. Raises PostgreSQL's error; then nothing of the revision is left."""
    tell(f"{path.stem} begins")
    began = time.monotonic()
    sql, digest = path.read_text(), _digest(path)  # noqa: ASYNC240  (a program that does one thing)
    async with telling(database_url, connection.get_server_pid(), f"{path.stem} runs"):
        for tried in range(1, _LOCK_TRIES + 1):
            try:
                async with connection.transaction():
                    await connection.execute(sql)
                    insert = "INSERT INTO schema_revisions (name, sha256) VALUES ($1, $2)"
                    await connection.execute(insert, path.stem, digest)
                break
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                if tried == _LOCK_TRIES:
                    raise
                await asyncio.sleep(_REST_S)
            except BaseException:
                tell(f"{path.stem} failed; nothing of it is left")
                raise
    tell(f"{path.stem} is applied, after {time.monotonic() - began:.1f} s")


async def wait_until_migrated(database_url: str, look_every_s: float = 1.0) -> None:
    """Wait until another process has applied all revisions of this tree. Raises EditedRevision."""
    told = ""
    while True:
        try:
            async with _session(database_url) as connection:
                missing = _missing(await _known(connection))
            if not missing:
                return
            why = f"waiting for {', '.join(path.stem for path in missing)}"
        except Exception as error:
            # The server or its tables may not be there yet. Both are worth waiting for.
            if fault_of(error) is None:
                raise
            why = f"waiting: {describe(error)}"
        if why != told:
            tell(why)
            told = why
        await asyncio.sleep(look_every_s)


def main() -> int:
    if sys.argv[1:] not in ([], ["--wait"]):
        print(__doc__, file=sys.stderr)
        return 2
    # Output that cannot be written must not leave a database half migrated, nor claim that it is.
    protect_streams("migrations")
    settings = load_or_exit("migrations", DatabaseSettings)
    try:
        if sys.argv[1:]:
            asyncio.run(wait_until_migrated(settings.database_url))
            applied = []
        else:
            applied = asyncio.run(migrate(settings.database_url))
    except (EditedRevision, Refused) as error:
        tell(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if fault_of(error) is None:
            raise
        tell(describe(error))
        return 1
    print("\n".join(f"applied {name}" for name in applied) or "up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
