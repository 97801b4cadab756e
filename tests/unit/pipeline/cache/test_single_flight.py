"""Look-ups that are shared, and those that must not be."""

import asyncio

import pytest

from pipeline.cache.single_flight import SingleFlight
from tests.support.time.conditions import eventually


class Counted:
    """A look-up that is held until it is let go, and returns how many have begun before it."""

    def __init__(self) -> None:
        self.begun: list[bool] = []
        self.let_go = asyncio.Event()

    async def look_up(self, is_second: bool) -> int:
        self.begun.append(is_second)
        place = len(self.begun)
        await self.let_go.wait()
        return place


async def test_all_who_come_before_it_begins_share_a_look_up_and_those_after_share_the_next() -> None:
    flights: SingleFlight[int] = SingleFlight()
    counted = Counted()
    first = [asyncio.create_task(flights.run("a", counted.look_up)) for _ in range(3)]
    await eventually(lambda: counted.begun)
    second = [asyncio.create_task(flights.run("a", counted.look_up)) for _ in range(3)]
    other = asyncio.create_task(flights.run("b", counted.look_up))
    await eventually(lambda: len(counted.begun) == 2)  # of "b"; the next of "a" waits for its turn
    counted.let_go.set()
    assert [await it for it in first] == [1, 1, 1]
    assert [await it for it in second] == [3, 3, 3]
    assert await other == 2
    assert counted.begun == [False, False, True]
    await eventually(lambda: flights.is_idle)


async def test_an_error_is_for_those_who_shared_it_and_for_nobody_after() -> None:
    flights: SingleFlight[int] = SingleFlight()

    async def fails(_: bool) -> int:
        raise LookupError

    answers = await asyncio.gather(*(flights.run("a", fails) for _ in range(3)), return_exceptions=True)
    assert [type(it) for it in answers] == [LookupError] * 3
    counted = Counted()
    counted.let_go.set()
    assert await flights.run("a", counted.look_up) == 1


async def test_who_leaves_takes_the_look_up_from_nobody() -> None:
    flights: SingleFlight[int] = SingleFlight()
    counted = Counted()
    leaves, stays = (asyncio.create_task(flights.run("a", counted.look_up)) for _ in range(2))
    await eventually(lambda: counted.begun)
    leaves.cancel()
    counted.let_go.set()
    assert await stays == 1
    with pytest.raises(asyncio.CancelledError):
        await leaves
