"""P11 after a restore: what docs/operate/backup.md tells an operator to do keeps readers from skipping events."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from database import event_log
from pipeline.contract.order_events import encode_cursor
from tests.conftest import Servers
from tests.support.scenes.events.event_reads import event_reads, log_events, order_ids
from tests.support.services.ingest import check_problem
from tests.support.services.workers import connected

PAGE = Path(__file__).parents[3] / "docs/operate/backup.md"


def documented_step() -> str:
    steps: list[str] = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (step,) = steps
    return step


@asynccontextmanager
async def restored_from(database_url: str, servers: Servers) -> AsyncIterator[str]:
    """A database as this one is now, for the length of the block. Its URL."""
    name = urlsplit(database_url).path[1:]
    async with connected(servers.database_url) as administrator:
        await administrator.execute(f"CREATE DATABASE {name}_restored TEMPLATE {name}")
        yield f"{database_url}_restored"
        await administrator.execute(f"DROP DATABASE {name}_restored WITH (FORCE)")


async def number(database_url: str) -> event_log.LogEnd:
    async with connected(database_url) as connection:
        return await event_log.number(connection)


async def test_p11_after_a_restore_a_cursor_of_before_is_410_also_once_the_log_has_grown_past_it(
    environment: dict[str, str], servers: Servers, database_url: str
) -> None:
    """Its event may be another one now. Without the step, a reader with such a cursor would skip events silently."""
    kept = await log_events(database_url, 3)
    backup = await number(database_url)
    async with restored_from(database_url, servers) as restored:
        await log_events(database_url, 2)
        lost = await number(database_url)
        async with connected(restored) as connection:
            await connection.execute(documented_step())
        later = await log_events(restored, 10)
        grown = await number(restored)
        assert backup.log_id == lost.log_id != grown.log_id
        assert backup.last_offset < lost.last_offset < grown.last_offset
        environment["DATABASE_URL"] = restored
        async with event_reads(environment) as reads:
            await reads.ends_at(grown.last_offset)
            for offset in (1, backup.last_offset, lost.last_offset):
                check_problem(await reads.get(f"?after={encode_cursor(lost.log_id, offset)}"), 410, "cursor-unknown")
            assert order_ids((await reads.get("?after=1999-01-01T00:00:00Z")).json()) == kept + later
