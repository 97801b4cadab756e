"""Runs `./headrace hooks …` in this process, on the database that DATABASE_URL names."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from typer.testing import CliRunner

from migrations.__main__ import migrate
from migrations.privileges import OWNER, provision
from stack.cli import app
from stack.errors import HeadraceError
from stack.home.credentials import generate
from stack.servers.accounts import database_passwords, database_urls


@dataclass(frozen=True)
class Ran:
    """What a command printed, and how it ended."""

    out: str
    err: str
    error: HeadraceError | None


async def hooks(*arguments: str) -> Ran:
    """Run the command, which may end with a HeadraceError and with nothing else."""
    result = await asyncio.to_thread(CliRunner().invoke, app, ["hooks", *arguments])
    error = result.exception if isinstance(result.exception, HeadraceError) else None
    assert result.exit_code == 0 or error, result.output
    return Ran(result.stdout, result.stderr, error)


async def make_roles(database_url: str) -> Mapping[str, str]:
    """Make the roles of a deployment. Returns role → URL."""
    credentials = generate()
    await provision(database_url, database_passwords(credentials))
    urls = database_urls(database_url, credentials)
    await migrate(urls[OWNER])
    return urls
