"""Look-ups become questions: few of them, bounded, and clients in turn."""

import asyncio
from collections.abc import Sequence

import pytest

from ingest_api.rounds import Rounds
from pipeline.process.shares import Busy, Shares
from tests.support.time.conditions import eventually


class Store:
    """Finds every id, in upper case, while its gate is open."""

    def __init__(self) -> None:
        self.questions: list[list[str]] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()

    async def ask(self, ids: Sequence[str]) -> dict[str, str]:
        self.questions.append(list(ids))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return {it: it.upper() for it in ids if it != "nothing"}


@pytest.fixture
async def store() -> Store:
    return Store()


def rounds_on(
    store: Store, *, most: int = 100, ids_at_once: int = 4, timeout_s: float = 60.0, joins_begun: bool = False
) -> Rounds[str]:
    shares = Shares("tests", most)
    return Rounds(store.ask, shares, ids_at_once=ids_at_once, in_flight=1, timeout_s=timeout_s, joins_begun=joins_begun)


async def asked(rounds: Rounds[str], *ids: str, client: str = "") -> "asyncio.Task[dict[str, str]]":
    task = asyncio.create_task(rounds.find(ids, client))
    await asyncio.sleep(0)
    return task


async def test_one_id_alone_is_asked_for_at_once(store: Store) -> None:
    store.gate.set()
    rounds = rounds_on(store)
    assert await rounds.find(["a"], "") == {"a": "A"}
    assert await rounds.find(["nothing"], "") == {}
    assert rounds.asking_s == 0


async def test_what_comes_while_the_store_answers_is_the_next_question(store: Store) -> None:
    rounds = rounds_on(store)
    finds = [await asked(rounds, id_) for id_ in "abc"]
    assert rounds.asking_s > 0
    store.gate.set()
    assert await asyncio.gather(*finds) == [{"a": "A"}, {"b": "B"}, {"c": "C"}]
    assert store.questions == [["a"], ["b", "c"]]


@pytest.mark.parametrize(("joins_begun", "questions"), [(True, [["a"]]), (False, [["a"], ["a"]])])
async def test_an_id_that_is_being_asked_for_is_asked_for_again_where_an_old_answer_will_not_do(
    store: Store, joins_begun: bool, questions: list[list[str]]
) -> None:
    rounds = rounds_on(store, joins_begun=joins_begun)
    finds = [await asked(rounds, "a") for _ in range(5)]
    assert ("a" in rounds) is True
    store.gate.set()
    assert await asyncio.gather(*finds) == [{"a": "A"}] * 5
    assert store.questions == questions
    assert "a" not in rounds


async def test_many_ids_are_questions_of_a_bounded_size(store: Store) -> None:
    store.gate.set()
    ids = [str(number) for number in range(99)]
    assert await rounds_on(store).find(ids, "") == dict(zip(ids, ids, strict=True))
    assert max(map(len, store.questions)) <= 4


async def test_p8_one_order_waits_for_no_bulk_and_no_client_for_another(store: Store) -> None:
    rounds = rounds_on(store, ids_at_once=4)
    await asked(rounds, "first")
    many = await asked(rounds, *(f"many {number}" for number in range(20)), client="a")
    one, another = await asked(rounds, "one", client="a"), await asked(rounds, "another", client="b")
    store.gate.set()
    await asyncio.gather(one, another, many)
    assert {"one", "another"} <= {*store.questions[1], *store.questions[2]}


async def test_p8_past_the_bound_nothing_is_asked_and_the_places_come_back(store: Store) -> None:
    rounds = rounds_on(store, most=2)
    first = await asked(rounds, "a", "b")
    with pytest.raises(Busy):
        await rounds.find(["c"], "")
    store.gate.set()
    await first
    assert await rounds.find(["c", "d"], "") == {"c": "C", "d": "D"}


async def test_a_question_that_fails_fails_for_those_who_asked_it_and_gives_its_places_back(store: Store) -> None:
    rounds = rounds_on(store, most=2)
    store.error = OSError("away")
    finds = [await asked(rounds, id_) for id_ in "ab"]
    store.gate.set()
    outcomes = await asyncio.gather(*finds, return_exceptions=True)
    assert [type(it) for it in outcomes] == [OSError, OSError]
    store.error = None
    assert await rounds.find(["c", "d"], "") == {"c": "C", "d": "D"}


async def test_one_who_leaves_takes_nothing_from_the_others(store: Store) -> None:
    rounds = rounds_on(store, joins_begun=True)
    first, second = await asked(rounds, "a"), await asked(rounds, "a")
    first.cancel()
    store.gate.set()
    assert await second == {"a": "A"}


async def test_p8_whoever_is_not_asked_for_in_time_is_told_that_it_is_busy(store: Store) -> None:
    rounds = rounds_on(store, timeout_s=0.01)
    first = await asked(rounds, "a")
    with pytest.raises(Busy):
        await rounds.find(["b"], "")
    store.gate.set()
    assert await first == {"a": "A"}  # it had begun
    await eventually(lambda: not rounds._asking)
    assert not rounds._round_of
