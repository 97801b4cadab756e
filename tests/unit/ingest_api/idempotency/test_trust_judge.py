"""TrustJudge: when a key that Redis does not remember was never used (P5)."""

import asyncio
from decimal import Decimal

import pytest

from ingest_api.idempotency.redis_trust import COMPLETE, NO_KEY_MEMORY, SETTLED, UNSETTLED, KeyMemory
from tests.support.scenes.keyed_scene import NOW_MS, KeyedScene, order, told

# ── how far the memory is believed


async def test_p5_a_living_worker_may_hold_its_batch_for_as_long_as_the_broker_lets_it() -> None:
    scene = KeyedScene()
    scene.queue = 0, 1
    scene.claims.memory_seen_at = asyncio.get_running_loop().time() - 800
    assert await scene.order("p") == "outcome-unknown"
    assert scene.claims.memory.level == UNSETTLED


async def test_p5_an_ingest_api_that_claimed_before_may_publish_for_a_while_although_nothing_consumes() -> None:
    scene = KeyedScene()
    scene.queue = 0, 0
    scene.store.rows["another"] = order("another", Decimal(1))
    scene.claims.memory_seen_at = asyncio.get_running_loop().time() - 5
    assert await scene.order("p") == "outcome-unknown"
    scene.claims.memory_seen_at -= 10
    await asyncio.sleep(0.6)
    scene.claims.held.clear()
    assert told(await scene.order("p")) == [10]
    assert scene.claims.memory.level == SETTLED


async def test_p5_a_store_that_was_asked_before_the_memory_settled_is_asked_again() -> None:
    """What was on its way then is stored now, at the price of then."""
    scene = KeyedScene()
    (order_id,) = scene.ids.derive_under_each("client", "key", (b"f" * 16).hex())[0]
    before = order(order_id, Decimal(7))
    scene.store.late, scene.queue = {order_id: before}, (0, 0)
    scene.claims.memory_seen_at = asyncio.get_running_loop().time() - 20
    assert told(await scene.order("p")) == [7]


async def test_p5_a_store_that_got_an_order_while_the_memory_settled_is_not_said_to_have_had_none() -> None:
    scene = KeyedScene()
    scene.queue = None
    await scene.judge.settle(scene.claims.memory)
    scene.store.rows["another"], scene.queue = order("another", Decimal(1)), (0, 0)
    scene.claims.memory_seen_at = asyncio.get_running_loop().time() - 20
    await asyncio.sleep(0.6)
    await scene.judge.settle(scene.claims.memory)
    assert scene.claims.memory.level == SETTLED


async def test_p5_on_a_broker_that_has_never_had_an_order_no_key_was_used_although_workers_consume() -> None:
    scene = KeyedScene()
    scene.queue = 0, 1
    scene.claims.memory_seen_at = asyncio.get_running_loop().time()
    scene.mark._unused = scene.claims.memory
    assert told(await scene.order("unknown", "another")) == ["unknown-product"] * 2
    assert scene.claims.memory.level == COMPLETE


async def test_p5_a_memory_that_began_after_the_broker_was_marked_is_not_believed() -> None:
    scene = KeyedScene()
    scene.mark._unused = scene.claims.memory
    scene.claims.memory = KeyMemory(2, UNSETTLED, NOW_MS)
    assert await scene.order("unknown", "another") == "outcome-unknown"


async def test_p5_a_broker_that_has_no_mark_yet_is_not_believed_beside_a_store_that_has_orders() -> None:
    """An older release marks none."""
    scene = KeyedScene()
    scene.mark._unused = scene.claims.memory
    scene.store.rows["another"] = order("another", Decimal(1))
    assert await scene.order("unknown", "another") == "outcome-unknown"


async def test_p5_a_broker_that_has_no_mark_yet_is_not_believed_while_its_queue_holds_something() -> None:
    """Orders that an older release accepted, and that no worker has stored."""
    scene = KeyedScene()
    scene.queue = 1, 1
    scene.mark._unused = scene.claims.memory
    assert await scene.order("unknown", "another") == "outcome-unknown"


async def test_p5_a_stored_order_without_a_key_settles_the_memory() -> None:
    """Only if it was minted after all that was claimed before can have been published."""
    scene = KeyedScene()
    memory, loop_time = scene.claims.memory, asyncio.get_running_loop().time
    scene.claims.memory_seen_at = loop_time()
    early = scene.ids.mint()
    scene.store.rows[early] = order(early, Decimal(1))
    await scene.judge._probe(memory)
    scene.claims.memory_seen_at = loop_time() - 11
    for _ in range(2):
        await scene.judge._probe(memory)
        assert scene.claims.memory.level == UNSETTLED
    scene.ids.mint()  # and refused
    await scene.judge._probe(memory)
    assert scene.claims.memory.level == UNSETTLED
    late = scene.ids.mint()
    await scene.judge._probe(memory)
    assert scene.claims.memory.level == UNSETTLED
    scene.store.rows[late] = order(late, Decimal(1))
    await scene.judge._probe(memory)
    assert scene.claims.memory.level == SETTLED


# ── looking


async def test_those_who_wait_behind_a_look_that_fails_do_not_look_one_after_the_other() -> None:
    scene = KeyedScene()
    scene.queue, scene.look_s = None, 0.2
    memory = scene.claims.memory
    async with asyncio.timeout(3):  # one after the other, they would take four
        await asyncio.gather(*(scene.judge.settle(memory) for _ in range(20)))
    assert scene.looks == 1


@pytest.mark.parametrize("memory", [KeyMemory(1, COMPLETE, NOW_MS), NO_KEY_MEMORY])
async def test_who_never_has_to_look_sleeps(monkeypatch: pytest.MonkeyPatch, memory: KeyMemory) -> None:
    scene = KeyedScene()
    scene.claims.memory, scene.claims.memory_seen_at = memory, asyncio.get_running_loop().time()
    naps: list[float] = []

    async def sleep(delay_s: float) -> None:
        naps.append(delay_s)
        if len(naps) == 20:
            raise asyncio.CancelledError

    monkeypatch.setattr("ingest_api.idempotency.trust_judge.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await scene.judge.run()
    assert sum(naps) > 10
