"""The readers of docs/api/events.md work as they are written: whatever cuts them off, they see each event once."""

import asyncio
from asyncio.subprocess import Process

import pytest

from tests.support.data.samples import sample_with
from tests.support.faults.faults import proxy_to
from tests.support.scenes.events.event_reads import log_events
from tests.support.services.ingest import Ingest
from tests.support.services.scripts import line_of, script

READERS = {"pull": 'answer.links["next"]', "stream": '"Last-Event-ID"'}


async def next_event(process: Process) -> str:
    """The id of the order of the next event. Lines about lost connections are passed over."""
    while True:
        line = await line_of(process)
        assert line, "it has ended"
        name, _, type_ = line.partition(" ")
        if type_ == "order.processed":
            return name.removesuffix(".1")


async def first_event(process: Process, database_url: str) -> list[str]:
    """Log events until the reader, which begins with `after=now`, tells of one. Returns what else it will tell of."""
    logged: list[str] = []
    reading = asyncio.create_task(next_event(process))
    while not reading.done():
        logged += await log_events(database_url)
        await asyncio.wait({reading}, timeout=0.5)
    return logged[logged.index(await reading) + 1 :]


@pytest.mark.parametrize("reader", READERS)
async def test_p11_a_reader_that_is_cut_off_again_and_again_sees_each_event_once(reader: str, ingest: Ingest) -> None:
    database_url = ingest.environment["DATABASE_URL"]
    async with proxy_to(str(ingest.client.base_url)) as proxy:
        text = sample_with("docs/api/events.md", READERS[reader])
        assert "http://localhost:8080" in text
        text = text.replace("http://localhost:8080", proxy.url(str(ingest.client.base_url)))
        async with script(text, {"NO_PROXY": "*"}) as process:
            expected = await first_event(process, database_url)
            for _ in range(3):
                proxy.cut()
                expected += await log_events(database_url, 3)
                assert [await next_event(process) for _ in expected] == expected
                expected = []
