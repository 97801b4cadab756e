"""ingest_api is killed or stopped while clients order: a 202 is a promise (P1), a stop loses nothing (P9)."""

import asyncio
import signal
import time
from collections import Counter

import msgspec
import pytest

from tests.support.clients.load import accepted_ids, loading
from tests.support.faults.faults import proxy_to
from tests.support.services.ingest import Ingest, ingesting
from tests.support.time.conditions import eventually


async def queued_ids(ingest: Ingest) -> Counter[str]:
    return Counter(msgspec.json.decode(order)["id"] for order in await ingest.queued_orders())


async def test_kill_in_the_middle_of_load_loses_no_accepted_order(
    environment: dict[str, str], laptop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P1."""
    monkeypatch.setattr("proof.load.PATIENCE_S", 0.1)
    async with ingesting(environment) as ingest, loading(ingest.service.url, [laptop]) as load:
        await load.more(501)
        assert await ingest.service.stop(signal.SIGKILL) == -signal.SIGKILL
        accepted = accepted_ids(await load.end())
        assert len(accepted) > 500
        queued = await queued_ids(ingest)
        assert accepted <= queued.keys()
        assert set(queued.values()) == {1}


async def test_stop_in_the_middle_of_load_answers_what_it_has_taken_and_loses_nothing(
    environment: dict[str, str], laptop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9: the queue holds exactly the orders that were answered 202."""
    monkeypatch.setattr("proof.load.PATIENCE_S", 0.1)
    async with ingesting(environment) as ingest, loading(ingest.service.url, [laptop]) as load:
        await load.more(501)
        assert await ingest.service.stop() == 0
        result = await load.end()
        queued = await queued_ids(ingest)
        assert accepted_ids(result) == queued.keys()
        assert set(queued.values()) == {1}
        assert set(result.by_status()) <= {202, 0}
        assert '"level":"error"' not in ingest.service.log()


async def test_an_order_in_flight_is_answered_although_the_process_is_stopping(
    environment: dict[str, str], laptop: str
) -> None:
    async with proxy_to(environment["AMQP_URL"]) as broker:
        environment["AMQP_URL"] = broker.url(environment["AMQP_URL"])
        async with ingesting(environment) as ingest:
            assert (await ingest.order(laptop)).status_code == 202
            broker.hold()
            ordering = asyncio.create_task(ingest.order(laptop))

            async def is_waiting() -> bool:
                return await ingest.metric("headrace_orders_in_flight") == 1

            await eventually(is_waiting)
            ingest.service.process.terminate()
            await eventually(lambda: '"event":"stopping"' in ingest.service.log())
            broker.come_back()
            assert (await ordering).status_code == 202
            assert await ingest.service.ended() == 0


async def test_a_broker_that_never_answers_does_not_hold_up_a_stop(environment: dict[str, str], laptop: str) -> None:
    async with proxy_to(environment["AMQP_URL"]) as broker:
        environment["AMQP_URL"] = broker.url(environment["AMQP_URL"])
        async with ingesting(environment, confirm_timeout_s=1) as ingest:
            assert (await ingest.order(laptop)).status_code == 202
            broker.hold()
            ordering = asyncio.create_task(ingest.order(laptop))
            started = time.monotonic()
            assert await ingest.service.stop() == 0
            assert time.monotonic() - started < 8
            await asyncio.wait({ordering})


async def test_idle_connections_do_not_hold_up_a_stop(environment: dict[str, str]) -> None:
    async with ingesting(environment) as ingest:
        port = int(ingest.service.url.rpartition(":")[2])
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
        for _, writer in idle[:5]:
            writer.write(b"POST /api/v1/orders HTTP/1.1\r\nHost: localhost\r\n")  # and never the end of its headers
            await writer.drain()
        await ingest.get("/livez")
        started = time.monotonic()
        assert await ingest.service.stop() == 0
        assert time.monotonic() - started < 3
        for _, writer in idle:
            writer.close()
