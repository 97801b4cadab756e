"""product_api without Redis, without the broker, and beside other processes of it."""

import asyncio
import time

import httpx

from tests.support.data.products import Audit
from tests.support.scenes.products import OVERWRITE, PROMPTLY_S, by_proxy, create, running_product_api
from tests.support.services.processes import free_port, service_process
from tests.support.time.conditions import eventually

# ── Redis


async def test_without_redis_products_are_read_and_changed_all_the_same(environment: dict[str, str]) -> None:
    environment["REDIS_URL"] = f"redis://127.0.0.1:{free_port()}/0"
    async with running_product_api(environment) as api:
        path = await create(api)
        assert (await api.get(path)).json()["qty"] == 50
        assert (await api.patch(path, json={"qty": 48}, headers=OVERWRITE)).status_code == 200
        assert (await api.get(path)).json()["qty"] == 48
        assert (await api.get("/readyz")).status_code == 200
        assert (await api.delete(path)).status_code == 204


async def test_a_change_during_a_redis_outage_is_what_is_read_during_and_after_it(environment: dict[str, str]) -> None:
    async with by_proxy(environment, "REDIS_URL") as proxy, running_product_api(environment) as api:
        path = await create(api)
        assert (await api.get(path)).json()["qty"] == 50  # and it is in the cache now
        proxy.go_away()
        assert (await api.patch(path, json={"qty": 48}, headers=OVERWRITE)).status_code == 200
        assert (await api.get(path)).json()["qty"] == 48
        proxy.come_back()

        async def redis_is_back() -> bool:
            return bool((await api.get("/health")).json()["parts"]["redis"] == "ok")

        assert await eventually(redis_is_back)
        assert (await api.get(path)).json()["qty"] == 48


async def test_a_redis_that_hangs_holds_nobody_up_for_long(environment: dict[str, str]) -> None:
    async with by_proxy(environment, "REDIS_URL") as proxy, running_product_api(environment) as api:
        path = await create(api)
        await api.get(path)
        proxy.hold()
        for request in (api.get(path), api.patch(path, json={"qty": 48}, headers=OVERWRITE), api.get(path)):
            began = time.monotonic()
            assert (await request).status_code == 200
            assert time.monotonic() - began < PROMPTLY_S
        assert (await api.get(path)).json()["qty"] == 48


# ── the broker


async def test_a_broker_that_hangs_holds_no_change_up_for_long(environment: dict[str, str]) -> None:
    async with by_proxy(environment, "AMQP_URL") as proxy, running_product_api(environment, confirm_timeout_s=1) as api:
        path = await create(api)
        proxy.hold()
        began = time.monotonic()
        assert (await api.patch(path, json={"qty": 1}, headers=OVERWRITE)).status_code == 200
        assert time.monotonic() - began < PROMPTLY_S


# ── processes


async def test_a_change_through_one_process_is_read_at_once_through_another(environment: dict[str, str]) -> None:
    async with (
        service_process("product_api", environment) as one,
        service_process("product_api", environment) as other,
        httpx.AsyncClient(base_url=one.url) as writer,
        httpx.AsyncClient(base_url=other.url) as reader,
    ):
        path = await create(writer)
        for qty in range(100):
            assert (await writer.patch(path, json={"qty": qty}, headers=OVERWRITE)).status_code == 200
            assert (await reader.get(path)).json()["qty"] == qty


async def test_sigterm_under_load_finishes_what_is_in_hand_and_exits_0(
    environment: dict[str, str], audit: Audit
) -> None:
    async with service_process("product_api", environment) as service:
        async with httpx.AsyncClient(base_url=service.url) as api:
            path = await create(api)
            clients = [asyncio.create_task(_restock_until_refused(service.url, path)) for _ in range(8)]
            await eventually(lambda: _has_qty(audit, path, 100))
            assert await service.stop() == 0
            answered, unknown = map(sum, zip(*await asyncio.gather(*clients), strict=True))
        log = service.log()
    in_database = await audit.qty(path.rpartition("/")[2]) - 50
    assert answered <= in_database <= answered + unknown
    assert await audit.unbalanced() == []
    assert "Traceback" not in log, log


async def _has_qty(audit: Audit, path: str, qty: int) -> bool:
    return await audit.qty(path.rpartition("/")[2]) >= qty


async def _restock_until_refused(url: str, path: str) -> tuple[int, int]:
    """Restock one at a time until the service is gone. Returns how many were answered, and how many are unknown."""
    answered = unknown = 0
    async with httpx.AsyncClient(base_url=url) as api:
        while True:
            try:
                response = await api.post(f"{path}/restock", json={"quantity": 1})
            except httpx.ConnectError:
                return answered, unknown
            except httpx.TransportError:
                unknown += 1
            else:
                assert response.status_code in (200, 503)  # all wait for one row, and for no longer than a deadline
                answered += response.status_code == 200
                unknown += response.status_code == 503
