"""GroupCommit in whatever order things happen: orders, bulks, answers of the broker, its absence, clients that leave.

As in test_batch_machine, Hypothesis looks for a sequence that breaks a promise, and time stands still.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ingest_api.intake.group_commit import Full, GroupCommit, Unavailable
from pipeline.broker.publisher import Outcome
from pipeline.contract.orders import SCHEMAS
from tests.support.services.ingest import elements_of
from tests.support.time.frozen_time import FrozenLoop

OVERLAP_ORDERS, OVERLAP_AFTER_S, TIMEOUT_S = 4, 0.02, 3.0
MAX_GROUP_ORDERS, MAX_GROUP_BYTES = 6, 60
MAX_WAITING_ORDERS, MAX_WAITING_BYTES = 20, 240

answers = st.sampled_from([it for it in Outcome if it is not Outcome.NOT_SENT])


@dataclass
class Published:
    """A message that was given to the publisher."""

    numbers: list[int]
    """The places of its orders among all that were taken."""
    size_bytes: int
    schema: int
    at: float
    answer: "asyncio.Future[Outcome]"
    beside: int
    """How many were in flight when it went."""


@dataclass
class Submitted:
    numbers: list[int]
    size_bytes: int
    schema: int
    at: float
    waiter: "asyncio.Future[Outcome]"
    is_bulk: bool
    is_cancelled: bool = False


class Broker:
    """What a Publisher promises: one Outcome, within the timeout, never an error."""

    def __init__(self, loop: FrozenLoop) -> None:
        self._loop = loop
        self.is_open = True
        self.published: list[Published] = []

    async def publish(
        self, _exchange: str, _key: str, body: bytes, *, orders: int, schema: int, timeout_s: float
    ) -> Outcome:
        if not self.is_open:
            return Outcome.NOT_SENT
        assert timeout_s > 0
        encoded = elements_of(body)
        assert len(encoded) == orders
        answer: asyncio.Future[Outcome] = self._loop.create_future()
        numbers = [int(it.strip(b'"').split(b" ")[0]) for it in encoded]
        beside = len(self.waiting())
        self.published.append(Published(numbers, sum(map(len, encoded)), schema, self._loop.time(), answer, beside))
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            return Outcome.UNKNOWN

    def waiting(self) -> list[Published]:
        return [it for it in self.published if not it.answer.done()]


class GroupCommitMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = FrozenLoop()
        self.broker = Broker(self.loop)
        self.submitted: list[Submitted] = []
        self.taken = 0

    @initialize(window=st.integers(1, 3))
    def make(self, window: int) -> None:
        self.window = window
        publisher: Any = self.broker

        async def make() -> GroupCommit:
            return GroupCommit(
                publisher,
                "exchange",
                "key",
                max_group_orders=MAX_GROUP_ORDERS,
                max_group_bytes=MAX_GROUP_BYTES,
                max_waiting_orders=MAX_WAITING_ORDERS,
                max_waiting_bytes=MAX_WAITING_BYTES,
                overlap_orders=OVERLAP_ORDERS,
                overlap_after_s=OVERLAP_AFTER_S,
                timeout_s=TIMEOUT_S,
            )

        self.commits = self.loop.done(make())
        self.running = [self.loop.begin(self.commits.run()) for _ in range(window)]

    # ── clients

    @rule(sizes=st.lists(st.integers(8, 30), min_size=1, max_size=8), schema=st.sampled_from(SCHEMAS))
    def order(self, sizes: list[int], schema: int) -> None:
        """So many at once, each by itself."""
        for size in sizes:
            self.submit([size], schema, is_bulk=False)
        self.loop.settle()

    @rule(sizes=st.lists(st.integers(8, 30), min_size=1, max_size=12), schema=st.sampled_from(SCHEMAS))
    def order_in_bulk(self, sizes: list[int], schema: int) -> None:
        self.submit(sizes, schema, is_bulk=True)
        self.loop.settle()

    @precondition(lambda self: self.unanswered())
    @rule(which=st.integers(0, 20))
    def leave(self, which: int) -> None:
        """A client's connection breaks. Its order goes on."""
        unanswered = self.unanswered()
        leaving = unanswered[which % len(unanswered)]
        leaving.waiter.cancel()
        leaving.is_cancelled = True
        self.loop.settle()

    # ── the broker

    @precondition(lambda self: self.broker.waiting())
    @rule(which=st.integers(0, 3), outcome=answers)
    def answer(self, which: int, outcome: Outcome) -> None:
        waiting = self.broker.waiting()
        waiting[which % len(waiting)].answer.set_result(outcome)
        self.loop.settle()

    @rule()
    def go_away(self) -> None:
        """With it goes every answer that it owed."""
        self.broker.is_open = False
        for message in self.broker.waiting():
            message.answer.set_result(Outcome.UNKNOWN)
        self.loop.settle()

    @precondition(lambda self: not self.broker.is_open)
    @rule()
    def come_back(self) -> None:
        self.broker.is_open = True
        self.loop.settle()

    @rule(seconds=st.sampled_from([0.001, OVERLAP_AFTER_S, 1.0, TIMEOUT_S - 1.0, TIMEOUT_S]))
    def pass_time(self, seconds: float) -> None:
        self.loop.pass_time(seconds)

    # ── what must be, whatever has happened

    def submit(self, sizes: list[int], schema: int, *, is_bulk: bool) -> None:
        numbers = [*range(self.taken, self.taken + len(sizes))]
        encoded = [
            b'"' + (b"%d " % number).ljust(size, b"x") + b'"' for number, size in zip(numbers, sizes, strict=True)
        ]
        size_bytes = sum(map(len, encoded))
        orders_waiting, bytes_waiting = self.held()
        fits = orders_waiting + len(sizes) <= MAX_WAITING_ORDERS and bytes_waiting + size_bytes <= MAX_WAITING_BYTES
        try:
            waiter = self.loop.done(self._submit(encoded, schema, is_bulk))
        except Full:
            assert not fits
        except Unavailable:
            assert fits
            assert not self.broker.is_open
        else:
            assert fits
            self.taken += len(sizes)
            self.submitted.append(Submitted(numbers, size_bytes, schema, self.loop.time(), waiter, is_bulk))

    async def _submit(self, encoded: list[bytes], schema: int, is_bulk: bool) -> "asyncio.Future[Outcome]":
        return self.commits.submit_all(encoded, schema) if is_bulk else self.commits.submit(encoded[0], schema)

    def unanswered(self) -> list[Submitted]:
        return [it for it in self.submitted if not it.waiter.done()]

    def held(self) -> tuple[int, int]:
        return self.commits._waiting_orders, self.commits._waiting_bytes

    @invariant()
    def every_order_is_published_at_most_once_and_in_its_order(self) -> None:
        numbers = [number for message in self.broker.published for number in message.numbers]
        assert numbers == sorted(set(numbers))

    @invariant()
    def every_waiter_gets_the_outcome_of_its_own_message_in_time(self) -> None:
        by_number = {number: message for message in self.broker.published for number in message.numbers}
        for it in self.submitted:
            message = by_number.get(it.numbers[0])
            if it.is_cancelled:
                continue
            if not it.waiter.done():
                assert self.loop.time() < it.at + TIMEOUT_S, "no outcome in time"
                assert message is None or not message.answer.done()
            elif message is None:
                assert it.waiter.result() is Outcome.NOT_SENT, "told of an outcome that nobody saw"
            elif message.answer.cancelled():
                assert it.waiter.result() is Outcome.UNKNOWN
            else:
                assert it.waiter.result() is message.answer.result()

    @invariant()
    def a_message_says_the_latest_schema_that_one_of_its_orders_needs(self) -> None:
        needed = {number: it.schema for it in self.submitted for number in it.numbers}
        for message in self.broker.published:
            assert message.schema == max(needed[number] for number in message.numbers)

    @invariant()
    def messages_are_within_bounds_and_a_bulk_is_one_by_itself(self) -> None:
        bulks = [it.numbers for it in self.submitted if it.is_bulk]
        bulk_numbers = {number for numbers in bulks for number in numbers}
        for message in self.broker.published:
            if message.numbers in bulks:
                continue
            assert bulk_numbers.isdisjoint(message.numbers)
            assert len(message.numbers) <= MAX_GROUP_ORDERS
            assert message.size_bytes <= MAX_GROUP_BYTES

    @invariant()
    def what_is_held_is_what_waits_and_within_bounds(self) -> None:
        orders, size_bytes = self.held()
        assert 0 <= orders <= MAX_WAITING_ORDERS
        assert 0 <= size_bytes <= MAX_WAITING_BYTES
        assert (orders == 0) == (size_bytes == 0) == self.commits._idle.is_set()
        unanswered = sum(len(it.numbers) for it in self.unanswered())
        gone = sum(len(it.numbers) for it in self.submitted if it.is_cancelled)
        assert unanswered <= orders <= unanswered + gone

    @invariant()
    def a_message_goes_beside_another_only_when_it_is_worth_it(self) -> None:
        last_sent = -1.0
        bulks = [it.numbers for it in self.submitted if it.is_bulk]
        for message in self.broker.published:
            assert message.beside < self.window
            is_large = len(message.numbers) >= OVERLAP_ORDERS or message.numbers in bulks
            assert not message.beside or is_large or message.at >= last_sent + OVERLAP_AFTER_S
            last_sent = message.at

    @invariant()
    def nobody_waits_who_could_go(self) -> None:
        if self.commits._groups and len(in_flight := self.broker.waiting()) < self.window:
            first = self.commits._groups[0]
            assert in_flight, "nothing in flight, and something held back"
            assert not first.is_closed
            assert len(first.encoded) < OVERLAP_ORDERS
            assert self.loop.time() < self.commits._last_sent + OVERLAP_AFTER_S

    @invariant()
    def nothing_was_raised_where_nobody_looks(self) -> None:
        assert self.loop.errors == []
        assert not any(it.done() for it in self.running)

    def teardown(self) -> None:
        if hasattr(self, "commits"):
            self.drain()
        self.loop.end()

    def drain(self) -> None:
        """In the end everybody has heard, once, and nothing is held."""
        draining = self.loop.begin(self.commits.drain())
        for _ in range(MAX_WAITING_ORDERS):
            for message in self.broker.waiting():
                message.answer.set_result(Outcome.CONFIRMED)
            self.loop.pass_time(OVERLAP_AFTER_S)
        assert draining.done()
        assert self.unanswered() == []
        assert self.held() == (0, 0)
        published = {number for message in self.broker.published for number in message.numbers}
        for it in self.submitted:  # all of its orders went, or none: the broker was away, and its client knows
            missing = set(it.numbers) - published
            if missing and not it.is_cancelled:
                assert it.waiter.result() is Outcome.NOT_SENT
                assert missing == set(it.numbers)


TestGroupCommit = GroupCommitMachine.TestCase
# Some thousands of steps. Without `explain`: its tracer makes the search for a shorter failure 20 times as slow.
TestGroupCommit.settings = settings(max_examples=80, stateful_step_count=50, phases=(Phase.generate, Phase.shrink))
