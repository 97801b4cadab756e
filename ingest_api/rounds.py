"""Natural batching of look-ups: ids that are asked for while the store answers are the next question."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from pipeline.process.shares import Busy, Shares

T = TypeVar("T")

Lane = tuple[str, bool]
"""A client, and whether its ids come many at a time. Lanes take turns, so that one order waits for no bulk."""


class Round(Generic[T]):
    """Ids of one client that are asked for together."""

    __slots__ = ("client", "done", "has_begun", "ids")

    def __init__(self, client: str) -> None:
        self.client = client
        self.ids: list[str] = []
        self.has_begun = False
        self.done: asyncio.Future[Mapping[str, T]] = asyncio.get_running_loop().create_future()
        """What was found, by id. Raises what `ask` raised."""


class Rounds(Generic[T]):
    """Looks many ids up in few questions. An id costs two dictionary entries, and no task, future or timer."""

    def __init__(
        self,
        ask: Callable[[Sequence[str]], Awaitable[Mapping[str, T]]],
        shares: Shares,
        *,
        ids_at_once: int,
        in_flight: int,
        timeout_s: float,
        joins_begun: bool = False,
    ) -> None:
        """`ask`: finds the ids that exist, within a deadline of its own. `shares`: a place for each id.

        `timeout_s`: how long an id may wait for its question to begin. `joins_begun`: whether a question in flight also
        answers callers that ask after it began; what it brings may be older than what they have seen.
        """
        self._ask, self._shares = ask, shares
        self._ids_at_once, self._max_in_flight, self._timeout_s = ids_at_once, in_flight, timeout_s
        self._joins_begun = joins_begun
        self._lanes: dict[Lane, deque[Round[T]]] = {}
        self._round_of: dict[str, Round[T]] = {}
        self._asking: dict[asyncio.Task[None], float] = {}
        """The questions in flight, oldest first, and since when, in loop time."""

    def __contains__(self, id_: str) -> bool:
        """Whether the id is being asked for, by a question that a caller may still join."""
        return id_ in self._round_of

    @property
    def asking_s(self) -> float:
        """For how many seconds the oldest question has been in flight; 0: none is."""
        since = next(iter(self._asking.values()), None)
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    async def find(self, ids: Collection[str], client: str) -> dict[str, T]:
        """What was found, by id; ids that do not exist are missing. Raises Busy, and what `ask` raises."""
        rounds = self.join(ids, client)
        await self.end_of(rounds)
        answers = [it.done.result() for it in rounds]
        return {id_: answer[id_] for answer in answers for id_ in ids if id_ in answer}

    def join(self, ids: Collection[str], client: str) -> list[Round[T]]:
        """Queue the ids, all or none. Returns the rounds that they are in. Raises Busy."""
        rounds: dict[Round[T], None] = {}
        new = []
        for id_ in ids:
            if (round_ := self._round_of.get(id_)) is None:
                new.append(id_)
            else:
                rounds[round_] = None
        if new:
            self._shares.take(client, len(new))
            rounds |= dict.fromkeys(self._add(new, client, (client, len(ids) > 1)))
            self._begin()
        return list(rounds)

    async def end_of(self, rounds: Iterable[Round[T]]) -> None:
        """Wait until the rounds are done. Raises Busy if one has not begun after `timeout_s`."""
        _, late = await asyncio.wait([it.done for it in rounds], timeout=self._timeout_s)
        if late:
            if not all(it.has_begun for it in rounds):
                raise Busy
            await asyncio.wait(late)  # all have begun, and `ask` has its own deadline

    def _add(self, ids: Iterable[str], client: str, lane: Lane) -> list[Round[T]]:
        queue = self._lanes.setdefault(lane, deque())
        joined: list[Round[T]] = []
        for id_ in ids:
            # Half of a question, so that beside a round of many ids there is room for another client's.
            if not queue or len(queue[-1].ids) >= max(1, self._ids_at_once // 2):
                queue.append(Round(client))
            if not joined or joined[-1] is not queue[-1]:
                joined.append(queue[-1])
            queue[-1].ids.append(id_)
            self._round_of[id_] = queue[-1]
        return joined

    def _begin(self) -> None:
        while self._lanes and len(self._asking) < self._max_in_flight:
            rounds = self._next()
            for round_ in rounds:
                round_.has_begun = True
                if not self._joins_begun:
                    self._forget(round_)
            self._asking[asyncio.create_task(self._run(rounds))] = asyncio.get_running_loop().time()

    def _next(self) -> list[Round[T]]:
        """The rounds for one question: one of each lane in turn, until the next does not fit."""
        taken: list[Round[T]] = []
        room = self._ids_at_once
        while self._lanes:
            lane, queue = next(iter(self._lanes.items()))
            if taken and len(queue[0].ids) > room:
                break
            taken.append(queue.popleft())
            room -= len(taken[-1].ids)
            del self._lanes[lane]
            if queue:
                self._lanes[lane] = queue  # behind the others
        return taken

    async def _run(self, rounds: Sequence[Round[T]]) -> None:
        try:
            found = await self._ask([id_ for round_ in rounds for id_ in round_.ids])
        except BaseException as error:
            for round_ in rounds:
                round_.done.set_exception(error if isinstance(error, Exception) else Busy())
                round_.done.exception()  # mark as retrieved: perhaps no caller waits any more
            if not isinstance(error, Exception):
                raise
        else:
            for round_ in rounds:
                round_.done.set_result(found)
        finally:
            for round_ in rounds:
                self._forget(round_)
                self._shares.give_back(round_.client, len(round_.ids))
            task = asyncio.current_task()
            assert task is not None
            del self._asking[task]
            self._begin()

    def _forget(self, round_: Round[T]) -> None:
        for id_ in round_.ids:
            if self._round_of.get(id_) is round_:
                del self._round_of[id_]
