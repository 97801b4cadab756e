"""Apply what is missing, once, however many replicas start together.

python -m migrations            reads DATABASE_URL as the services do; exit 0 when the schema is up to date
python -m migrations --wait     changes nothing: waits until somebody else has brought it up to date
"""

import asyncio
import hashlib
import sys
from pathlib import Path

import asyncpg

from migrations.privileges import grant
from pipeline.logs.configure import protect_streams
from pipeline.settings import DatabaseSettings, load_or_exit

# One lock for all who migrate this database. The number is the first 8 bytes of sha256("headrace migrations"), as a
# signed bigint.
_LOCK = int.from_bytes(hashlib.sha256(b"headrace migrations").digest()[:8], "big", signed=True)


class EditedRevision(Exception):
    """A revision that is in the database has another text in the tree."""


async def migrate(database_url: str) -> list[str]:
    """Apply the revisions that are missing. Returns their names. Raises EditedRevision, asyncpg errors."""
    connection = await asyncpg.connect(database_url, timeout=10)
    try:
        # Held by the session: released when it ends, even by kill -9.
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_revisions"
            " (name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        rows = await connection.fetch("SELECT name, sha256 FROM schema_revisions")
        known = {row["name"]: row["sha256"] for row in rows}
        applied = [path.stem for path in _revisions() if await _apply(connection, path, known)]
        await grant(connection)
        return applied
    finally:
        await connection.close()


def _revisions() -> list[Path]:
    return sorted(Path(__file__).parent.glob("[0-9]*.sql"))


async def _apply(connection: "asyncpg.Connection[asyncpg.Record]", path: Path, known: dict[str, str]) -> bool:
    sql = path.read_text()  # noqa: ASYNC240  (a program that does one thing has nothing else to serve meanwhile)
    digest = _check(path, sql, known)
    if path.stem in known:
        return False
    async with connection.transaction():
        await connection.execute(sql)
        await connection.execute("INSERT INTO schema_revisions (name, sha256) VALUES ($1, $2)", path.stem, digest)
    return True


def _check(path: Path, sql: str, known: dict[str, str]) -> str:
    """The text's digest. Raises EditedRevision if it was applied with another."""
    digest = hashlib.sha256(sql.encode()).hexdigest()
    if known.get(path.stem, digest) != digest:
        raise EditedRevision(f"{path.name} was applied with another text; put it back and add a new revision")
    return digest


async def wait_until_migrated(database_url: str, look_every_s: float = 1.0) -> None:
    """Return when the database has all revisions of this tree, whoever applies them. Raises EditedRevision."""
    while True:
        try:
            if await _is_migrated(database_url):
                return
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            # Not there yet, or no tables in it yet: who waits for the one waits for the other.
            print(f"migrations: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        await asyncio.sleep(look_every_s)


async def _is_migrated(database_url: str) -> bool:
    connection = await asyncpg.connect(database_url, timeout=10)
    try:
        rows = await connection.fetch("SELECT name, sha256 FROM schema_revisions")
    finally:
        await connection.close()
    known = {row["name"]: row["sha256"] for row in rows}
    for path in _revisions():
        _check(path, path.read_text(), known)
    missing = [path.stem for path in _revisions() if path.stem not in known]
    if missing:
        print(f"migrations: waiting for {', '.join(missing)}", file=sys.stderr, flush=True)
    return not missing


def main() -> int:
    if sys.argv[1:] not in ([], ["--wait"]):
        print(__doc__, file=sys.stderr)
        return 2
    # A log that cannot be written is no reason to leave a database half migrated, or to say that it is.
    protect_streams("migrations")
    settings = load_or_exit("migrations", DatabaseSettings)
    try:
        if sys.argv[1:]:
            asyncio.run(wait_until_migrated(settings.database_url))
            applied = []
        else:
            applied = asyncio.run(migrate(settings.database_url))
    except (OSError, TimeoutError, asyncpg.PostgresError, EditedRevision) as error:
        print(f"migrations: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("\n".join(f"applied {name}" for name in applied) or "up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
