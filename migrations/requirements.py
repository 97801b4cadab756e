"""Requirements that a database must meet before the migrations change it. Each refusal says what to do."""

from typing import NamedTuple

import asyncpg

OLDEST_MAJOR = 14
"""The oldest version that the PostgreSQL project still maintains."""

# One row. `foreign_table`: the first of our tables whose owner's rights we do not have, with that owner.
_LOOK = """
    SELECT current_setting('server_version_num')::int / 10000 AS major,
           current_setting('server_version') AS version,
           current_setting('server_encoding') AS encoding,
           current_setting('transaction_read_only') = 'on' AS is_read_only,
           current_database() AS database,
           current_user AS role,
           current_schema() AS schema,
           coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
           (SELECT format('%s belongs to %s', c.oid::regclass, pg_get_userbyid(c.relowner))
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = current_schema() AND c.relkind = 'r' AND c.relname = ANY($1::text[])
                  AND NOT pg_has_role(c.relowner, 'USAGE')
            ORDER BY c.relname LIMIT 1) AS foreign_table
"""
_TABLES = ("products", "orders", "stock_adjustments", "stock_ledger", "dead_letters", "schema_revisions")


class Refused(Exception):
    """The migrations cannot run in this database. Nothing was changed."""


class Found(NamedTuple):
    """The properties of the database, the server and the role that the migrations depend on."""

    major: int
    version: str
    encoding: str
    is_read_only: bool
    database: str
    role: str
    schema: str | None
    may_create: bool
    foreign_table: str | None


def why_not(found: Found, *, changes: bool) -> str | None:
    """Why the migrations cannot run, or None. `changes`: whether there are revisions to apply."""
    if found.major < OLDEST_MAJOR:
        return f"PostgreSQL {found.version} is too old: Headrace needs {OLDEST_MAJOR} or later"
    if found.encoding != "UTF8":
        return (
            f"the database {found.database} has the encoding {found.encoding}, which cannot hold every product's name:"
            f" make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and name it in DATABASE_URL"
        )
    if not changes:
        return None
    if found.is_read_only:
        return "the server takes no writes: it is a standby, or was made read-only; name its primary in DATABASE_URL"
    if found.schema is None:
        return "search_path names no schema that exists: CREATE SCHEMA, or ALTER ROLE … SET search_path"
    if not found.may_create:
        return (
            f"the role {found.role} may not make tables in the schema {found.schema}:"
            f" GRANT CREATE ON SCHEMA {found.schema} TO {found.role}, or migrate as the owner"
        )
    if found.foreign_table is not None:
        return (
            f"the table {found.foreign_table}, and the role {found.role} cannot change it: migrate as its owner,"
            f" or GRANT the owner's role TO {found.role}"
        )
    return None


# ── I/O below


async def require(connection: "asyncpg.Connection[asyncpg.Record]", *, changes: bool) -> None:
    """Raise Refused if the database does not meet the requirements. `changes`: as in `why_not`."""
    row = await connection.fetchrow(_LOOK, _TABLES)
    assert row is not None  # it has no FROM
    if why := why_not(Found(*row), changes=changes):
        raise Refused(why)
