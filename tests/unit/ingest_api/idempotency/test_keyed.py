"""P5: what a keyed request is told while Redis's memory, the store and the queue disagree."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal

import pytest

from ingest_api.idempotency.records import name_of
from ingest_api.idempotency.redis_trust import COMPLETE, SETTLED, UNSETTLED, KeyMemory
from ingest_api.requests import OrderRequest
from pipeline.contract.orders import Order
from tests.support.scenes.keyed_scene import NEW_KEY, NOW_MS, OLD_KEY, KeyedScene, order, told
from web.problems import problems
from web.problems.problems import Problem

# ── in doubt


@pytest.mark.parametrize("level", [UNSETTLED, SETTLED, COMPLETE])
async def test_p5_a_bulk_in_doubt_is_answered_once_its_orders_are_stored(level: int) -> None:
    scene = KeyedScene()
    assert await scene.order("p", "unknown") == "outcome-unknown"
    scene.store_all()
    scene.claims.memory = KeyMemory(1, level, NOW_MS)
    answers = [await scene.order("p", "unknown") for _ in range(2)]
    assert [told(it) for it in answers] == [[10, "unknown-product"]] * 2
    assert len(scene.published) == 1


async def test_p5_a_bulk_in_doubt_of_which_nothing_is_stored_is_not_answered_by_its_refusals() -> None:
    scene = KeyedScene()
    assert await scene.order("unknown", "another") == "outcome-unknown"
    assert not scene.published
    scene.claims.memory = KeyMemory(1, SETTLED, NOW_MS)  # nothing was left in doubt: it is refused now
    assert told(await scene.order("unknown", "another")) == ["unknown-product"] * 2


# ── 503 outcome-unknown names what is unknown, and why


async def _unknown(scene: KeyedScene, *products: str) -> str:
    """The detail of the 503. Of none of them the broker is the cause: it has confirmed, or nothing was sent."""
    assert await scene.order(*products) == "outcome-unknown"
    assert scene.told is not None
    assert scene.told.retry_after_s == 1
    assert "broker" not in scene.told.detail
    assert "same Idempotency-Key" in scene.told.detail
    return scene.told.detail


async def test_p5_a_store_that_is_behind_is_named() -> None:
    assert "the database has not stored it in time" in await _unknown(KeyedScene(), "p")


@pytest.mark.parametrize("hangs", [False, True])
async def test_p5_a_store_that_goes_away_while_the_answer_waits_is_named(
    hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = KeyedScene()

    async def goes_away(orders: Sequence[Order]) -> None:
        scene.published += orders
        scene.store.is_away = True
        if hangs:
            monkeypatch.setattr(scene.store, "find", lambda _: asyncio.sleep(60))

    monkeypatch.setattr(scene, "_publish", goes_away)
    assert "the database does not answer" in await _unknown(scene, "p")


async def test_p5_a_refusal_that_an_order_from_before_may_contradict_names_redis() -> None:
    detail = await _unknown(KeyedScene(), "unknown")
    assert "would be refused now" in detail
    assert "Redis cannot be reached, or has lost its memory" in detail


async def test_p5_while_keys_are_replaced_and_redis_has_forgotten_both_are_named() -> None:
    detail = await _unknown(KeyedScene([NEW_KEY, OLD_KEY]), "p")
    assert "secret keys are being replaced" in detail
    assert "Redis cannot be reached, or has lost its memory" in detail


async def test_p5_an_order_that_appears_under_another_secret_key_names_these() -> None:
    scene = KeyedScene([NEW_KEY, OLD_KEY])
    _, (old_id,) = scene.ids.derive_under_each("client", "key", (b"f" * 16).hex())
    scene.store.rows["another"] = order("another", Decimal(1))
    scene.store.late, scene.queue = {old_id: order(old_id, Decimal(7))}, (0, 0)
    scene.claims.memory_seen_at = asyncio.get_running_loop().time() - 20
    assert "secret keys are being replaced" in await _unknown(scene, "p")
    assert told(await scene.order("p")) == [7], "the next one finds it"


async def test_p5_a_claim_in_doubt_under_another_secret_key_than_what_is_stored_names_these() -> None:
    scene = KeyedScene([NEW_KEY, OLD_KEY])
    new, old = scene.ids.derive_under_each("client", "key", (b"f" * 16).hex(), 2)
    scene.claims.memory = KeyMemory(1, COMPLETE, NOW_MS)
    scene.store.rows[new[0]] = order(new[0], Decimal(7))
    name = name_of("ns:", "client", "key", is_bulk=True)
    scene.claims.held[name] = f"{old[0].replace('-', '')}?{'o' * 16}{'0' * 26}x".encode()
    assert "secret keys are being replaced" in await _unknown(scene, "p", "unknown")


@pytest.mark.parametrize("state", ["d", "?"])
async def test_p5_what_is_remembered_and_cannot_be_read_is_named(state: str) -> None:
    scene = KeyedScene([NEW_KEY, OLD_KEY])
    _, (old_id,) = scene.ids.derive_under_each("client", "key", (b"f" * 16).hex())
    scene.claims.memory = KeyMemory(1, COMPLETE, NOW_MS)
    name = name_of("ns:", "client", "key", is_bulk=False)
    scene.claims.held[name] = f"{old_id.replace('-', '')}{state}{'o' * 16}{'0' * 26}what is this?".encode()
    assert "cannot be read" in await _unknown(scene, "p")


# ── what other releases and other keys left


async def test_p5_a_replay_of_what_an_older_release_refused_is_refused() -> None:
    scene = KeyedScene()
    scene.claims.memory = KeyMemory(1, COMPLETE, NOW_MS)
    refused: list[OrderRequest | Problem] = [OrderRequest("p", 1), problems.invalid("#/quantity", "not this many")]
    first = await scene.order(requests=refused)
    second = await scene.order("p", "p")
    assert told(second) == told(first)
    assert len(scene.published) == 1


async def test_p5_a_claim_that_nobody_can_read_ends_in_what_is_stored() -> None:
    scene = KeyedScene()
    scene.claims.memory = KeyMemory(1, COMPLETE, NOW_MS)
    assert told(await scene.order("p")) == [10]
    for state in "d!?":
        for name, held in scene.claims.held.items():
            scene.claims.held[name] = held[:32] + state.encode() + held[33:62] + b"what is this?"
        assert await scene.order("p") == "outcome-unknown"
    scene.store_all()
    assert told(await scene.order("p")) == [10]
    assert len({it.id for it in scene.published}) == 1


async def test_p5_an_order_under_a_key_that_this_process_does_not_know_yet_is_not_written_over() -> None:
    new = KeyedScene([NEW_KEY, OLD_KEY])
    old = KeyedScene([OLD_KEY], new.claims)
    old.store = new.store
    new.claims.memory = KeyMemory(1, COMPLETE, NOW_MS)
    assert told(await new.order("p")) == [10]
    assert await old.order("p") == "outcome-unknown"
    assert not old.published
    assert not new.claims.written_over


async def test_a_value_that_is_no_claim_is_written_over() -> None:
    scene = KeyedScene()
    scene.claims.memory = KeyMemory(1, COMPLETE, NOW_MS)
    await scene.order("p")
    scene.claims.held = dict.fromkeys(scene.claims.held, b"?" * 80)
    assert told(await scene.order("p")) == [10]
    assert scene.claims.written_over == 1
