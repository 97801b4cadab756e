"""PostgreSQL roles and their grants: one table, from which roles, grants, documents and tests derive.

python -m migrations.privileges DIRECTORY     create the roles, make `owner` own the database; safe to repeat

DATABASE_URL must be a superuser's. DIRECTORY holds a file with the password of `owner` and of each role in GRANTS.

The owner owns the schema and migrates it; no service is the owner or a superuser. Roles belong to a whole server, so
their names begin with the database's name: two deployments on one server share none. Without these roles, the
services run with the rights of DATABASE_URL, and nothing here is used.
"""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

import asyncpg

from pipeline.process.settings import DatabaseSettings, load_or_exit

Connection = asyncpg.Connection

OWNER = "owner"
# Role → table → privileges. Only the owner can use a table that no role names.
GRANTS: Mapping[str, Mapping[str, str]] = {
    # Reads prices, verdicts, a client's orders and the event log. Stores no order: that is what the queue is for.
    "ingest_api": {
        "products": "SELECT",
        "orders": "SELECT",
        "stock_ledger": "SELECT",
        "cancellations": "SELECT",
        "dead_letters": "SELECT",
        "failed_orders": "SELECT",
        "event_batches": "SELECT",
        "event_log": "SELECT",
    },
    # ON CONFLICT needs SELECT. The ledger shows which dead-lettered orders still need a verdict.
    "persist_worker": {
        "orders": "SELECT, INSERT",
        "stock_ledger": "SELECT",
        "dead_letters": "SELECT, INSERT",
    },
    # Reads the order that a client cancels, and gives its units back.
    "product_consumer": {
        "products": "SELECT, UPDATE (qty, version, updated_at)",
        "orders": "SELECT",
        "stock_ledger": "SELECT, INSERT",
        "stock_adjustments": "INSERT",
        "cancellations": "SELECT, INSERT, UPDATE (outcome, settled_at, accepted_at)",
        "dead_letters": "SELECT, INSERT",
    },
    # Deletes a product by a mark in its row. Can neither decide orders nor read them.
    "product_api": {
        "products": "SELECT, INSERT, UPDATE (name, price, qty, version, updated_at, deleted_at)",
        "stock_adjustments": "INSERT",
        # ON CONFLICT and FOR UPDATE need UPDATE.
        "product_requests": "SELECT, INSERT, UPDATE, DELETE",
    },
    # Follows the log. It alone reads the secrets with which it signs.
    "event_relay": {
        "orders": "SELECT",
        "stock_ledger": "SELECT",
        "cancellations": "SELECT",
        "dead_letters": "SELECT",
        "event_batches": "SELECT",
        "event_log": "SELECT",
        "hooks": "SELECT, UPDATE",
        "hook_secrets": "SELECT, DELETE",
        "hook_attempts": "SELECT, INSERT, DELETE",
        "event_exchange": "SELECT, UPDATE",
    },
    # `verify` reads nearly everything and changes nothing. `dead` marks letters, and writes the verdict of those it
    # discards.
    "operator": {
        "products": "SELECT",
        "orders": "SELECT",
        "stock_adjustments": "SELECT",
        "stock_ledger": "SELECT, INSERT",
        "cancellations": "SELECT, UPDATE (outcome, settled_at)",
        "dead_letters": "SELECT, UPDATE",
        "event_batches": "SELECT",
        "event_log": "SELECT",
        # `hooks` makes secrets and ends them, and cannot read them.
        "hooks": "SELECT, INSERT, UPDATE, DELETE",
        "hook_secrets": "SELECT (hook_id, created_at, expires_at), INSERT, UPDATE (expires_at)",
        "hook_attempts": "SELECT",
    },
}
# Functions → roles that may call them. They do with the owner's rights what their caller may not.
CALLS: Mapping[str, tuple[str, ...]] = {"number_events": ("ingest_api", "event_relay", "operator")}
# Every role may read the applied revisions, for `python -m migrations --wait`.
READ_BY_ALL = "schema_revisions"
# persist_worker may COPY a batch into a temporary table before it inserts it.
TEMPORARY_TABLES = ("persist_worker",)

_TABLES = "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')"
_FOREIGN = f"{_TABLES} AND pg_get_userbyid(relowner) <> $1"
_FOREIGN_FUNCTIONS = """
    SELECT oid::regprocedure::text FROM pg_proc p
    WHERE pronamespace = current_schema()::regnamespace AND pg_get_userbyid(proowner) <> $1
      AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e')
"""
_FUNCTIONS = """
    SELECT proname, oid::regprocedure::text FROM pg_proc
    WHERE pronamespace = current_schema()::regnamespace AND proname = ANY($1)
"""


def role_name(database: str, role: str) -> str:
    """PostgreSQL's name of a role in GRANTS, or of OWNER. Raises ValueError if the database's name is too long."""
    name = f"{database}_{role}"
    if len(name.encode()) > 63:
        raise ValueError(f"the name of the role {name} is longer than PostgreSQL's 63 bytes")
    return name


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


# ── I/O below


async def provision(admin_url: str, passwords: Mapping[str, str]) -> None:
    """Create the roles, or set the passwords of existing ones, and make OWNER own the database. Safe to repeat.

    `admin_url`: the database, as a superuser. `passwords`: by role, for OWNER and each role in GRANTS.
    """
    connection = await asyncpg.connect(admin_url, timeout=10)
    try:
        database = await connection.fetchval("SELECT current_database()")
        async with connection.transaction():
            for role, password in passwords.items():
                await _make_role(connection, role_name(database, role), password)
            await _hand_over(connection, database)
            for role in GRANTS:
                may = "CONNECT, TEMPORARY" if role in TEMPORARY_TABLES else "CONNECT"
                await connection.execute(
                    f"GRANT {may} ON DATABASE {_quoted(database)} TO {_quoted(role_name(database, role))}"
                )
    finally:
        await connection.close()


async def _make_role(connection: "Connection[asyncpg.Record]", name: str, password: str) -> None:
    if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", name):
        await connection.execute(f"CREATE ROLE {_quoted(name)}")
    literal = await connection.fetchval("SELECT quote_literal($1::text)", password)
    await connection.execute(
        f"ALTER ROLE {_quoted(name)} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
        f" PASSWORD {literal}"
    )


async def _hand_over(connection: "Connection[asyncpg.Record]", database: str) -> None:
    """Make OWNER own everything, also tables that an earlier version made as a superuser."""
    owner = role_name(database, OWNER)
    await connection.execute(f"ALTER DATABASE {_quoted(database)} OWNER TO {_quoted(owner)}")
    await connection.execute(f"REVOKE ALL ON DATABASE {_quoted(database)} FROM PUBLIC")
    schema = _quoted(await connection.fetchval("SELECT current_schema()"))
    await connection.execute(f"ALTER SCHEMA {schema} OWNER TO {_quoted(owner)}")
    # Before PostgreSQL 15, everybody may create tables there.
    await connection.execute(f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC")
    await connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO PUBLIC")
    for (table,) in await connection.fetch(_FOREIGN, owner):
        await connection.execute(f"ALTER TABLE {_quoted(table)} OWNER TO {_quoted(owner)}")
    for (function,) in await connection.fetch(_FOREIGN_FUNCTIONS, owner):
        await connection.execute(f"ALTER FUNCTION {function} OWNER TO {_quoted(owner)}")


async def grant(connection: "Connection[asyncpg.Record]") -> list[str]:
    """Grant this database's roles exactly what GRANTS says. Returns the names of the roles that exist.

    The owner calls it after each migration: a new revision may have made a table.
    """
    database = await connection.fetchval("SELECT current_database()")
    tables = [row[0] for row in await connection.fetch(_TABLES)]
    functions = await connection.fetch(_FUNCTIONS, [*CALLS])
    names = {role: f"{database}_{role}" for role in GRANTS}
    found = {
        row[0]
        for row in await connection.fetch("SELECT rolname FROM pg_roles WHERE rolname = ANY($1)", [*names.values()])
    }
    known = {role: name for role, name in names.items() if name in found}
    async with connection.transaction():
        for role, name in known.items():
            for table in tables:
                await connection.execute(f"REVOKE ALL ON TABLE {_quoted(table)} FROM {_quoted(name)}")
            for table, may in {READ_BY_ALL: "SELECT", **GRANTS[role]}.items():
                await connection.execute(f"GRANT {may} ON TABLE {_quoted(table)} TO {_quoted(name)}")
            for function, signature in functions:
                verb, preposition = ("GRANT", "TO") if role in CALLS[function] else ("REVOKE", "FROM")
                await connection.execute(f"{verb} EXECUTE ON FUNCTION {signature} {preposition} {_quoted(name)}")
    return [*known.values()]


def passwords_in(directory: Path) -> dict[str, str]:
    """The passwords of OWNER and of each role in GRANTS. Raises OSError for a role without a file."""
    return {role: (directory / role).read_text().strip() for role in (OWNER, *GRANTS)}


def main(arguments: list[str]) -> int:
    """Return the exit code: 0, 1 if the roles could not be made, 2 for wrong arguments."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    settings = load_or_exit("migrations.privileges", DatabaseSettings)
    try:
        asyncio.run(provision(settings.database_url, passwords_in(Path(arguments[0]))))
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError) as error:
        print(f"migrations.privileges: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"made the roles: {', '.join((OWNER, *GRANTS))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
