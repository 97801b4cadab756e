"""The rate limit: a second's worth at once, the pace thereafter, and fields that say what is true."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from web.access.clients import ANYONE, Client
from web.access.rate_limit import Quota, RateLimits, admit
from web.problems.problems import Problem

S = 1_000_000_000
SHOP = Client("shop", frozenset({"orders:write"}), 10)
paces = st.integers(1, 1_000_000)


@dataclass
class LimitsSetup:
    """Rate limits with a clock of their own, and what is sent through them."""

    now_ns: int = 5 * S
    sent: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.limits = RateLimits(lambda: self.now_ns)

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def order(self, client: Client = SHOP, orders: int = 1) -> dict[str, str]:
        """The header fields of the answer. Raises Problem."""
        send = self.limits.charge(client, orders, self.send)
        asyncio.run(send({"type": "http.response.start", "status": 202, "headers": [(b"a", b"b")]}))  # type: ignore[arg-type]
        return {name.decode(): value.decode() for name, value in self.sent[-1]["headers"]}

    def refused(self, client: Client = SHOP, orders: int = 1) -> Problem:
        with pytest.raises(Problem) as raised:
            self.limits.charge(client, orders, self.send)
        return raised.value


def test_a_seconds_worth_may_come_at_once_and_each_answer_tells_what_is_left() -> None:
    setup = LimitsSetup()
    told = [setup.order()["ratelimit"] for _ in range(10)]
    assert told == [f'"orders";r={left};t=1' for left in range(9, -1, -1)]
    setup.refused()


def test_p8_who_is_refused_is_told_when_to_come_again_and_then_gets_in() -> None:
    setup = LimitsSetup()
    for _ in range(10):
        setup.order()
    problem = setup.refused()
    assert (problem.name, problem.retry_after_s) == ("too-many-requests", 1)
    assert problem.headers == {"RateLimit-Policy": '"orders";q=10;w=1', "RateLimit": '"orders";r=0;t=1'}
    assert "10 orders a second" in problem.detail
    setup.now_ns += S // 10
    assert setup.order()["ratelimit-policy"] == '"orders";q=10;w=1'
    setup.refused()


def test_what_is_refused_costs_nothing() -> None:
    setup = LimitsSetup()
    for _ in range(10):
        setup.order()
    for _ in range(50):
        setup.refused()
    setup.now_ns += S
    assert setup.order()["ratelimit"] == '"orders";r=9;t=1'


def test_a_bulk_costs_its_orders_and_one_that_is_larger_than_the_bucket_is_owed() -> None:
    setup = LimitsSetup()
    assert setup.order(orders=4)["ratelimit"] == '"orders";r=6;t=1'
    assert setup.refused(orders=7).retry_after_s == 1
    setup.now_ns += S
    assert setup.order(orders=50)["ratelimit"] == '"orders";r=0;t=5'
    assert setup.refused().retry_after_s == 5
    setup.now_ns += 4 * S
    setup.refused()
    setup.now_ns += S // 10
    setup.order()


def test_a_bulk_that_does_not_fit_is_told_when_it_will() -> None:
    setup = LimitsSetup()
    setup.order(orders=30)
    wait_s = setup.refused(orders=50).retry_after_s
    assert wait_s == 3
    setup.now_ns += wait_s * S
    setup.order(orders=50)


def test_two_keys_of_a_client_share_one_bucket_and_two_clients_do_not() -> None:
    setup = LimitsSetup()
    other_key = Client("shop", frozenset({"orders:read", "orders:write"}), 10)
    for _ in range(5):
        setup.order()
        setup.order(other_key)
    setup.refused()
    setup.refused(other_key)
    setup.order(Client("another", frozenset(), 10))


@pytest.mark.parametrize("client", [ANYONE, Client("shop", frozenset())])
def test_who_has_no_limit_pays_nothing_and_is_told_nothing(client: Client) -> None:
    setup = LimitsSetup()
    assert setup.limits.charge(client, 1_000, setup.send) == setup.send


def test_only_the_head_of_an_answer_is_touched() -> None:
    setup = LimitsSetup()
    send = setup.limits.charge(SHOP, 1, setup.send)
    asyncio.run(send({"type": "http.response.body", "body": b"x"}))  # type: ignore[arg-type]
    assert setup.sent == [{"type": "http.response.body", "body": b"x"}]


@given(paces, st.lists(st.tuples(st.integers(0, S // 2), st.integers(1, 3)), max_size=60))
def test_p8_no_more_than_the_limit_is_let_in_over_any_time(per_s: int, arrivals: list[tuple[int, int]]) -> None:
    """A second's worth at once, the pace thereafter, and what the last one owed."""
    full_at_ns, now_ns, begin_ns, admitted, last = 0, 7 * S, 7 * S, 0, 0
    for pause_ns, orders in arrivals:
        now_ns += pause_ns
        verdict = admit(full_at_ns, now_ns, orders, per_s)
        if not isinstance(verdict, Quota):
            full_at_ns, last = verdict[0], orders
            admitted += orders
    # 0.1 %: a pace that does not divide a second is rounded up by less than that.
    assert admitted <= (per_s * (now_ns - begin_ns + S) / S) * 1.001 + last


@given(paces, st.integers(0, 10 * S), st.integers(1, 1_000))
def test_what_the_fields_say_is_in_bounds_and_waiting_as_told_helps(per_s: int, owed_ns: int, orders: int) -> None:
    now_ns = 3 * S
    verdict = admit(now_ns + owed_ns, now_ns, orders, per_s)
    quota = verdict if isinstance(verdict, Quota) else verdict[1]
    assert 0 <= quota.remaining <= per_s
    assert quota.reset_s >= 1
    if isinstance(verdict, Quota):
        assert quota.remaining < orders
        assert not isinstance(admit(now_ns + owed_ns, now_ns + quota.reset_s * S, orders, per_s), Quota)
