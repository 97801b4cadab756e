"""What a process learns of Redis's memory from one call to the next."""

from ingest_api.idempotency.redis_trust import (
    LEARNED_FOR_S,
    NO_KEY_MEMORY,
    OVERTAKES_S,
    SETTLED,
    SETTLES_WITHIN_S,
    UNSETTLED,
    Changes,
    KeyMemory,
    RedisTrust,
)

BEGAN, NOW = 1_000_000, 2_000_000


def learn(
    memory: RedisTrust,
    *,
    evicted: bytes = b"5",
    began: int = BEGAN,
    level: int = UNSETTLED,
    now: int = NOW,
    gap: int = BEGAN,
    run: bytes = b"run",
    loop_time: float = 1.0,
) -> Changes:
    return memory.learn(run, evicted, b"%d" % began, level, b"%d" % now, b"%d" % gap, loop_time=loop_time)


def learned(**first: int) -> RedisTrust:
    memory = RedisTrust()
    learn(memory, **first)  # type: ignore[arg-type]
    return memory


def test_the_first_answer_is_no_loss() -> None:
    memory = RedisTrust()
    assert memory.current is NO_KEY_MEMORY
    assert learn(memory) == Changes(0, is_loss=False, is_gap=False)
    assert (memory.current, memory.seen_at) == (KeyMemory(BEGAN, UNSETTLED, NOW), 1.0)


def test_a_memory_that_goes_on_was_seen_when_it_was_first_heard_of() -> None:
    memory = learned()
    assert learn(memory, now=NOW + 5, level=SETTLED, loop_time=9.0) == Changes(0, is_loss=False, is_gap=False)
    assert (memory.current.level, memory.seen_at) == (SETTLED, 1.0)


def test_p5_evictions_are_a_loss_and_no_gap() -> None:
    memory = learned()
    assert learn(memory, evicted=b"12", began=BEGAN + 1, loop_time=9.0) == Changes(7, is_loss=True, is_gap=False)
    assert memory.seen_at == 9.0


def test_p5_a_redis_that_was_emptied_or_restarted_is_a_gap() -> None:
    memory = learned()
    assert learn(memory, began=BEGAN + 1, gap=BEGAN + 1, run=b"new", evicted=b"0") == Changes(
        0, is_loss=True, is_gap=True
    )


def test_a_count_of_evictions_that_cannot_be_read_counts_nothing() -> None:
    memory = learned()
    assert learn(memory, evicted=b"").evicted == 0
    assert learn(memory, evicted=b"7").evicted == 0
    assert learn(memory, evicted=b"9").evicted == 2


def test_a_level_is_raised_for_the_memory_that_it_was_found_for_and_never_lowered() -> None:
    memory = learned()
    memory.raise_to(KeyMemory(BEGAN - 1, UNSETTLED, NOW), SETTLED)
    assert (memory.current.level, memory.raised) == (UNSETTLED, (0, 0))
    memory.raise_to(memory.current, SETTLED)
    assert (memory.current.level, memory.raised) == (SETTLED, (BEGAN, SETTLED))
    memory.raise_to(memory.current, UNSETTLED)
    assert memory.current.level == SETTLED


def test_a_value_at_a_key_is_returned_and_a_missing_key_is_as_old_as_the_memory() -> None:
    memory = learned()
    assert memory.found(None) == (b"", memory.current)
    assert memory.found(b"x" * 75) == (b"x" * 75, memory.current)
    assert memory.found(b"%d" % (BEGAN - 1)) == (b"", memory.current)


def test_p5_a_key_whose_clients_claims_were_dropped_may_be_new_only_since_the_newest_of_them() -> None:
    memory = learned(level=SETTLED)
    dropped = NOW - 1_000
    assert memory.found(b"%d" % dropped) == (b"", KeyMemory(dropped, UNSETTLED, NOW))
    long_ago = NOW - round(1_000 * SETTLES_WITHIN_S) - 1
    assert memory.found(b"%d" % long_ago) == (b"", KeyMemory(long_ago, SETTLED, NOW))


def test_p5_claims_dropped_well_before_a_finding_are_stored_once_its_requests_have_their_answers() -> None:
    memory = learned(level=SETTLED)
    dropped = NOW - round(1_000 * OVERTAKES_S)
    memory.raise_to(memory.current, SETTLED)
    assert memory.found(b"%d" % dropped)[1].level == UNSETTLED
    later = NOW + round(1_000 * LEARNED_FOR_S) + 1
    learn(memory, level=SETTLED, now=later)
    assert memory.found(b"%d" % dropped) == (b"", KeyMemory(dropped, SETTLED, later))
    assert memory.found(b"%d" % (dropped + 1))[1].level == UNSETTLED
