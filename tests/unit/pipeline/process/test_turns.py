"""Turns: so many at once, clients one after the other, and a bound on who waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pipeline.process.shares import Busy, Shares
from pipeline.process.turns import Turns

LIMIT = 12


class TurnsSetup:
    """One turn at a time, held until the test lets it end."""

    def __init__(self, timeout_s: float = 60.0) -> None:
        self.turns = Turns(Shares("tests", LIMIT), 1, timeout_s)
        self.served: list[str] = []

    async def visit(self, client: str) -> None:
        async with self.turns.turn(client):
            self.served.append(client)

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        async with self.turns.turn("first"):
            yield


async def visits(setup: TurnsSetup, clients: str) -> "list[asyncio.Task[None]]":
    tasks = [asyncio.create_task(setup.visit(client)) for client in clients]
    await asyncio.sleep(0)
    return tasks


async def test_p8_clients_take_turns_however_many_one_of_them_asks_for() -> None:
    setup = TurnsSetup()
    async with setup.taken():
        tasks = await visits(setup, "aaaab")
    await asyncio.gather(*tasks)
    assert setup.served == ["a", "b", "a", "a", "a"]


async def test_p8_those_past_the_bound_are_refused_at_once_and_another_client_is_not() -> None:
    setup = TurnsSetup()
    async with setup.taken():
        tasks = await visits(setup, "a" * 20)
        assert sum(it.done() for it in tasks) == 20 - (LIMIT - 1) // 2
        others = await visits(setup, "b")
    outcomes = await asyncio.gather(*tasks, *others, return_exceptions=True)
    assert [type(it) for it in outcomes if it is not None] == [Busy] * (20 - (LIMIT - 1) // 2)
    assert setup.served[1] == "b"


async def test_whoever_waits_too_long_is_told_that_it_is_busy_and_leaves_nothing_behind() -> None:
    setup = TurnsSetup(timeout_s=0.01)
    async with setup.taken():
        with pytest.raises(Busy):
            await setup.visit("a")
    await setup.visit("a")
    assert setup.served == ["a"]


async def test_a_visitor_that_leaves_gives_its_turn_to_the_next() -> None:
    setup = TurnsSetup()
    async with setup.taken():
        first, second = await visits(setup, "ab")
        first.cancel()
    await second
    assert setup.served == ["b"]
    await setup.visit("c")


async def test_a_turn_that_comes_to_one_who_is_leaving_is_not_lost() -> None:
    setup = TurnsSetup()
    async with setup.taken():
        first, second = await visits(setup, "ab")
    first.cancel()  # its turn has come, and it has not begun
    await second
    await setup.visit("c")
    assert setup.served == ["b", "c"]
