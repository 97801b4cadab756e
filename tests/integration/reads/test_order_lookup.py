"""GET an order, and the orders of a product: ingest_api as a process, with no worker behind it."""

import uuid
from datetime import timedelta

from pipeline.contract.order_ids import OrderIds
from tests.support.data.orders import T0
from tests.support.scenes.order_reads import decide_order, park_order, store_order
from tests.support.services.ingest import ORDERS, Ingest, check_problem, execute

# ── GET an order


async def test_an_accepted_order_is_pending_from_the_first_moment(ingest: Ingest, laptop: str) -> None:
    """P6, with no worker to store it."""
    for _ in range(20):
        accepted = await ingest.order(laptop)
        response = await ingest.get(accepted.headers["location"])
        assert response.status_code == 200
        assert response.json() == {"id": accepted.json()["id"], "status": "PENDING", "final": False}
        assert response.headers["cache-control"] == "no-store"


async def test_an_id_that_is_not_ours_is_404(ingest: Ingest, laptop: str, order_id_key: str) -> None:
    ours = (await ingest.order(laptop)).json()["id"]
    value = uuid.UUID(ours).int
    changed = [str(uuid.UUID(int=value ^ 1 << bit)) for bit in (0, 23, 24, 40, 60, 90, 127)]
    foreign = [str(uuid.uuid4()), str(uuid.UUID(int=0)), OrderIds("another key" * 8).mint()]
    for order_id in changed + foreign:
        check_problem(await ingest.get(f"{ORDERS}/{order_id}"), 404, "not-found")
    assert (await ingest.get(f"{ORDERS}/{ours.upper()}")).json() == {"id": ours, "status": "PENDING", "final": False}
    assert (await ingest.get(f"{ORDERS}/{OrderIds(order_id_key).mint()}")).status_code == 200


async def test_a_path_that_is_no_id_is_404(ingest: Ingest) -> None:
    for form in ("{}x", "{{{}}}", "urn:uuid:{}", "{}%00", " {}", "+{}", "1", "_" * 32, "\u0661" * 32, "x" * 5000):
        path = form.format(uuid.uuid4())
        check_problem(await ingest.get(f"{ORDERS}/{path}"), 404, "not-found")
        check_problem(await ingest.get(f"{ORDERS}/product/{path}"), 404, "not-found")


async def test_a_stored_order_shows_its_verdict(ingest: Ingest, database_url: str) -> None:
    for outcome, reason in ((None, None), ("PROCESSED", None), ("FAILED", "out_of_stock")):
        product_id = str(uuid.uuid4())
        order_id = await store_order(database_url, product_id, at=T0)
        if outcome:
            await decide_order(database_url, order_id, product_id, reason)
        response = await ingest.get(f"{ORDERS}/{order_id}")
        expected = {
            "id": order_id,
            "status": outcome or "PENDING",
            "final": outcome is not None,
            "product_id": product_id,
            "quantity": 2,
            "unit_price": 9.9,
            "total_price": 19.8,
            "created_at": "2026-01-02T03:04:05.678901Z",
        }
        assert response.json() == expected | ({"reason": reason} if reason else {})
        assert response.headers["order-status-source"] == "store"
        assert b'"unit_price":9.90,"total_price":19.80,' in response.content
        assert (await ingest.get(f"{ORDERS}/product/{product_id}")).content == b"[" + response.content + b"]"


async def test_a_dead_letter_is_a_failed_order_until_it_is_replayed(
    ingest: Ingest, database_url: str, order_id_key: str, laptop: str
) -> None:
    unstored, stored = OrderIds(order_id_key).mint(), await store_order(database_url, laptop)
    for order_id, stage in ((unstored, "persist"), (stored, "stock")):
        await park_order(database_url, order_id, stage, "first", order_id.encode())
        await park_order(database_url, order_id, stage, "invalid_data", b"again " + order_id.encode())
        order = (await ingest.get(f"{ORDERS}/{order_id}")).json()
        assert (order["status"], order["reason"], order["final"]) == ("FAILED", "invalid_data", False)
        await execute(database_url, "UPDATE dead_letters SET replayed_at = now()")
        order = (await ingest.get(f"{ORDERS}/{order_id}")).json()
        assert (order["status"], order.get("reason")) == ("PENDING", None)


async def test_a_verdict_counts_for_more_than_a_dead_letter(ingest: Ingest, database_url: str, laptop: str) -> None:
    order_id = await store_order(database_url, laptop)
    await decide_order(database_url, order_id, laptop)
    await park_order(database_url, order_id, "stock", "id_conflict")
    order = (await ingest.get(f"{ORDERS}/{order_id}")).json()
    assert (order["status"], order.get("reason")) == ("PROCESSED", None)


async def test_what_was_parked_under_the_id_of_a_stored_order_is_not_that_order(
    ingest: Ingest, database_url: str, laptop: str
) -> None:
    """It would be FAILED until its verdict, and PROCESSED then."""
    order_id = await store_order(database_url, laptop)
    await park_order(database_url, order_id, "persist", "id_conflict")
    for order in (
        (await ingest.get(f"{ORDERS}/{order_id}")).json(),
        *(await ingest.get(f"{ORDERS}/product/{laptop}")).json(),
    ):
        assert (order["status"], order.get("reason")) == ("PENDING", None)


# ── GET the orders of a product


async def test_pages_are_newest_first_without_gaps_or_repeats(ingest: Ingest, database_url: str, laptop: str) -> None:
    """Ties in time included, and orders that arrive while the pages are read."""
    ids = [str(uuid.uuid4()) for _ in range(25)]
    moments = [T0 + timedelta(microseconds=index // 4) for index in range(25)]
    for order_id, moment in zip(ids, moments, strict=True):
        await store_order(database_url, laptop, order_id=order_id, at=moment)
    await store_order(database_url, at=T0)  # of another product
    expected = [order_id for _, order_id in sorted(zip(moments, ids, strict=True), reverse=True)]

    seen: list[str] = []
    path: str | None = f"{ORDERS}/product/{laptop.upper()}?limit=7"
    while path:
        response = await ingest.get(path)
        assert response.status_code == 200
        page = [order["id"] for order in response.json()]
        assert len(page) <= 7
        seen += page
        path = response.links["next"]["url"] if "next" in response.links else None
        await store_order(database_url, laptop, at=T0 + timedelta(seconds=1))
    assert seen == expected


async def test_a_last_page_that_is_full_has_no_next(ingest: Ingest, database_url: str, laptop: str) -> None:
    for _ in range(4):
        await store_order(database_url, laptop)
    first = await ingest.get(f"{ORDERS}/product/{laptop}?limit=2")
    last = await ingest.get(first.links["next"]["url"])
    assert (len(first.json()), len(last.json())) == (2, 2)
    assert "next" not in last.links


async def test_the_list_has_bounds(ingest: Ingest, database_url: str, laptop: str) -> None:
    path = f"{ORDERS}/product/{laptop}"
    await execute(
        database_url,
        "INSERT INTO orders (id, product_id, quantity, unit_price, total_price, accepted_at)"
        " SELECT gen_random_uuid(), $1, 1, 1, 1, now() FROM generate_series(1, 600)",
        laptop,
    )
    assert len((await ingest.get(path)).json()) == 50
    assert len((await ingest.get(f"{path}?limit=500")).json()) == 500
    for query in ("limit=0", "limit=501", "limit=-1", "limit=x", f"limit={'9' * 5000}", "before=x"):
        check_problem(await ingest.get(f"{path}?{query}"), 422, "invalid-value")
    response = await ingest.get(f"{path}?limit=x&before=y")
    assert [error["parameter"] for error in response.json()["errors"]] == ["before", "limit"]
    assert (await ingest.get(f"{ORDERS}/product/{uuid.uuid4()}")).json() == []
