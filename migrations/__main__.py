"""Apply what is missing, once, however many replicas start together.

python -m migrations            reads DATABASE_URL; exit 0 when the schema is up to date
"""

import asyncio
import hashlib
import os
import sys
from pathlib import Path

import asyncpg

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
        return [path.stem for path in _revisions() if await _apply(connection, path, known)]
    finally:
        await connection.close()


def _revisions() -> list[Path]:
    return sorted(Path(__file__).parent.glob("[0-9]*.sql"))


async def _apply(connection: "asyncpg.Connection[asyncpg.Record]", path: Path, known: dict[str, str]) -> bool:
    sql = path.read_text()  # noqa: ASYNC240  (a program that does one thing has nothing else to serve meanwhile)
    digest = hashlib.sha256(sql.encode()).hexdigest()
    if path.stem in known:
        if known[path.stem] != digest:
            raise EditedRevision(f"{path.name} was applied with another text; put it back and add a new revision")
        return False
    async with connection.transaction():
        await connection.execute(sql)
        await connection.execute("INSERT INTO schema_revisions (name, sha256) VALUES ($1, $2)", path.stem, digest)
    return True


def main() -> int:
    url = os.environ.get("DATABASE_URL")
    if not url:
        print("migrations: DATABASE_URL is not set; ./headrace up sets it for you", file=sys.stderr)
        return 78
    try:
        applied = asyncio.run(migrate(url))
    except (OSError, TimeoutError, asyncpg.PostgresError, EditedRevision) as error:
        print(f"migrations: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print("\n".join(f"applied {name}" for name in applied) or "up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
