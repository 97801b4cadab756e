"""Asks PostgreSQL whether orders were accepted: rows of `orders`, and orders parked before they became rows."""

import asyncio
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

import msgspec
import structlog

from database.sessions import Pool, StoreUnavailable, reading
from pipeline.contract.columns import selected
from pipeline.contract.order_rows import orders_of
from pipeline.contract.orders import ANSWERED, INTERNAL, OF_BASKET, AnyOrder, InvalidOrder, decode_body
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from pipeline.process.breaker import Breaker

log = structlog.get_logger()

PENDING = "PENDING"
_COLUMNS = (*ANSWERED, *OF_BASKET)
_INTERNAL = {"traceparent": None, **{it.member: None for it in INTERNAL}}
_MAX_AT_ONCE = 5_000

# A dead letter of an order that is not stored holds the order as accepted, and a replay stores exactly that.
_ACCEPTED = f"""
    SELECT {selected(_COLUMNS, "orders")}, NULL AS body FROM orders WHERE id = ANY($1::uuid[])
    UNION ALL
    SELECT {", ".join("NULL" for _ in _COLUMNS)}, body FROM dead_letters
    WHERE order_id = ANY($1::uuid[]) AND stage = '{Stage.PERSIST}' AND reason <> '{Reason.ID_CONFLICT}'
"""


class _Question(NamedTuple):
    ids: Sequence[str]
    answer: "asyncio.Future[dict[str, AnyOrder]]"

    def fail(self, error: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class AcceptedOrders:
    """Finds accepted orders by id. Questions that arrive while one query is in flight share the next query."""

    def __init__(self, pool: Pool, timeout_s: float) -> None:
        """`timeout_s`: of each query. One that fails also fails all questions that wait behind it. Until one works, one
        caller a second tries and waits; all others fail at once.
        """
        self._pool, self._timeout_s = pool, timeout_s
        self._breaker = Breaker("postgresql")
        self._questions: list[_Question] = []
        self._asking: asyncio.Task[None] | None = None

    async def find(self, ids: Sequence[str], *, can_do_without: bool = False) -> dict[str, AnyOrder]:
        """The accepted ones of these orders, by id, as they were answered then. Raises StoreUnavailable.

        `can_do_without`: while PostgreSQL is away, raise at once; the query that tries it again keeps nobody waiting. A
        PostgreSQL that is only slow is waited for, because its answer may be that the order is stored.
        """
        is_asking = self._asking is not None and not self._asking.done()
        was_away = self._breaker.is_away
        if was_away and (is_asking or not self._breaker.may_try()):
            raise StoreUnavailable("PostgreSQL did not answer a moment ago")
        question = _Question(ids, asyncio.get_running_loop().create_future())
        self._questions.append(question)
        if not is_asking:
            self._asking = asyncio.create_task(self._ask_all())
        if was_away and can_do_without:
            question.answer.cancel()
            raise StoreUnavailable("PostgreSQL is being tried")
        return await question.answer

    async def are_none(self) -> bool:
        """Whether there is no order at all; False if PostgreSQL does not answer."""
        try:
            async with reading(self._pool, self._timeout_s) as connection:
                return not await connection.fetchval(
                    "SELECT EXISTS (SELECT FROM orders) OR EXISTS (SELECT FROM dead_letters)"
                )
        except StoreUnavailable:
            return False

    async def _ask_all(self) -> None:
        while self._questions:
            asked = _take(self._questions)
            ids = [it for question in asked if not question.answer.done() for it in question.ids]
            try:
                found = await self._ask(ids or asked[0].ids)  # nobody waits for the query that tries PostgreSQL again
            except Exception as error:
                if isinstance(error, StoreUnavailable):  # those behind it would wait as long, in vain
                    asked, self._questions = asked + self._questions, []
                elif not ids:
                    log.exception("cannot ask which orders are stored")
                for question in asked:
                    question.fail(error)
                continue
            for question in asked:
                if not question.answer.done():
                    question.answer.set_result({it: found[it] for it in question.ids if it in found})

    async def _ask(self, ids: Sequence[str]) -> dict[str, AnyOrder]:
        try:
            async with reading(self._pool, self._timeout_s) as connection:
                rows = await connection.fetch(_ACCEPTED, ids)
        except StoreUnavailable as error:
            self._breaker.failed(error)
            raise
        self._breaker.worked()
        parked = [order for row in rows if row["body"] is not None and (order := _parked(row["body"])) is not None]
        stored = sorted((row for row in rows if row["body"] is None), key=_id_and_line)
        return {
            order.id: order for order in (*parked, *orders_of(stored, ANSWERED))
        }  # what is stored has the last word


_id_and_line = itemgetter("id", "line")


def _parked(body: bytes) -> AnyOrder | None:
    """The order in the body of a dead letter, as it was answered; None if it must be repaired before a replay."""
    try:
        (order,) = decode_body(body)
    except (InvalidOrder, ValueError):
        return None
    return msgspec.structs.replace(order, status=PENDING, **_INTERNAL)


def _take(questions: list[_Question]) -> list[_Question]:
    """Removes and returns the first questions: at most _MAX_AT_ONCE ids, unless one question alone has more."""
    taken, ids = 0, 0
    while taken < len(questions) and (not taken or ids + len(questions[taken].ids) <= _MAX_AT_ONCE):
        ids += len(questions[taken].ids)
        taken += 1
    some = questions[:taken]
    del questions[:taken]
    return some
