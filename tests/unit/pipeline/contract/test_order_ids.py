"""Order ids: two never meet, they grow, and nobody else's are taken for ours."""

import multiprocessing
import time
from collections.abc import Iterator
from itertools import repeat
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.contract.order_ids import OrderIds
from tests.support.data.orders import accepted_at_ms

KEY = "6b" * 32
OTHER_KEY = "6c" * 32
NODE = 0x1_5A5A_A5A5
NOW_MS = 1_767_323_045_678


def ids_at(*clock_ms: int, node: int = NODE) -> OrderIds:
    """Ids under a clock that shows these values, then stands still."""
    values: Iterator[int] = iter(clock_ms)
    last = clock_ms[-1]
    return OrderIds(KEY, node=node, clock_ms=lambda: next(values, last))


def _mint_many(count: int) -> list[str]:
    ids = OrderIds(KEY)
    return [ids.mint() for _ in range(count)]


def test_p2_ids_are_unique_across_processes() -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        minted = [order_id for ids in pool.map(_mint_many, repeat(20_000, 4)) for order_id in ids]
    assert len(set(minted)) == 80_000


def test_p2_ids_of_one_millisecond_and_two_nodes_differ() -> None:
    assert ids_at(NOW_MS, node=1).mint() != ids_at(NOW_MS, node=2).mint()


def test_p2_ids_are_unique_and_grow_when_the_clock_steps_back() -> None:
    ids = ids_at(NOW_MS, NOW_MS + 5, NOW_MS - 60_000, NOW_MS - 59_999, NOW_MS + 5, NOW_MS + 6)
    minted = [ids.mint() for _ in range(10)]
    assert minted == sorted(set(minted))
    assert accepted_at_ms(minted[2]) == NOW_MS + 5


def test_a_clock_that_was_set_back_is_told_once_each_time_it_was() -> None:
    told: list[float] = []
    values = iter([NOW_MS, NOW_MS - 999, NOW_MS - 60_000, NOW_MS - 50_000, NOW_MS + 1, NOW_MS - 2_000])
    ids = OrderIds(KEY, node=NODE, clock_ms=lambda: next(values), on_step=told.append)
    minted = [ids.mint() for _ in range(6)]
    assert minted == sorted(set(minted))
    assert told == [60.0, 2.001]


def test_p2_a_full_counter_borrows_the_next_millisecond() -> None:
    ids = ids_at(NOW_MS)
    minted = [ids.mint() for _ in range(2**16 + 2)]
    assert minted == sorted(set(minted))
    assert accepted_at_ms(minted[2**16 - 1]) == NOW_MS
    assert accepted_at_ms(minted[2**16]) == NOW_MS + 1


def test_p2_the_clock_catches_up_with_borrowed_milliseconds() -> None:
    ids = ids_at(*repeat(NOW_MS, 2**16 + 1), NOW_MS + 1, NOW_MS + 1, NOW_MS + 2)
    minted = [ids.mint() for _ in range(2**16 + 4)]
    assert minted == sorted(set(minted))
    assert accepted_at_ms(minted[-1]) == NOW_MS + 2


@given(st.lists(st.integers(0, 2**48 - 2), min_size=1, max_size=50))
def test_p2_ids_grow_whatever_the_clock_does(clock_ms: list[int]) -> None:
    ids = ids_at(*clock_ms)
    minted = [ids.mint() for _ in clock_ms]
    assert minted == sorted(set(minted))


@given(node=st.integers(0, 2**33 - 1), now_ms=st.integers(0, 2**48 - 1))
def test_an_id_is_a_uuid_of_version_8_and_says_when_it_was_minted(node: int, now_ms: int) -> None:
    order_id = ids_at(now_ms, node=node).mint()
    value = UUID(order_id)
    assert (value.version, value.variant, str(value)) == (8, RFC_4122, order_id)
    assert accepted_at_ms(order_id) == now_ms
    assert OrderIds(KEY).is_ours(order_id)


def test_the_clock_is_the_wall_clock() -> None:
    before_ms = time.time_ns() // 1_000_000
    assert before_ms <= accepted_at_ms(OrderIds(KEY).mint()) <= time.time_ns() // 1_000_000


@pytest.mark.parametrize("bit", range(128))
def test_p6_the_mac_refuses_every_single_changed_bit(bit: int) -> None:
    ids = ids_at(NOW_MS)
    changed = UUID(int=UUID(ids.mint()).int ^ 1 << bit)
    assert not ids.is_ours(str(changed))


def test_p6_an_id_under_another_key_is_not_ours() -> None:
    assert not OrderIds(OTHER_KEY).is_ours(ids_at(NOW_MS).mint())


def test_p6_every_process_with_the_key_knows_the_id() -> None:
    assert OrderIds(KEY).is_ours(OrderIds(KEY).mint())


@pytest.mark.parametrize(
    "other_text",
    [
        str.upper,
        lambda it: it.replace("-", ""),
        lambda it: f"{{{it}}}",
        lambda it: f"urn:uuid:{it}",
        lambda it: f" {it}",
    ],
    ids=["upper", "no hyphens", "braces", "urn", "space"],
)
def test_p6_only_the_canonical_text_is_ours(other_text: object) -> None:
    assert callable(other_text)
    ids = ids_at(NOW_MS)
    assert not ids.is_ours(other_text(ids.mint()))


@given(st.text())
def test_p6_text_that_is_no_uuid_is_not_ours(text: str) -> None:
    assert not OrderIds(KEY).is_ours(text)
