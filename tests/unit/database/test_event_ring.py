"""The ring of new events: what it reaches, what it gives, and what it drops."""

from database.event_ring import EventRing, FollowedEvent, Page


def page(first: int, last: int, *, without: tuple[int, ...] = ()) -> Page:
    offsets = [it for it in range(first, last + 1) if it not in without]
    return Page([FollowedEvent(it, None, "", "order.failed", f"o{it}", b"x" * 100) for it in offsets], last)


def read(ring: EventRing, after: int, limit: int) -> tuple[list[int], int]:
    found = ring.read(after, limit)
    return [it.offset for it in found.events], found.upto


def ring(*pages: Page, max_events: int = 100, max_bytes: int = 100_000) -> EventRing:
    it = EventRing(max_events, max_bytes)
    it.begin(10)
    for one in pages:
        it.append(one)
    return it


def test_it_reaches_from_where_it_began_to_its_end() -> None:
    it = ring(page(11, 20))
    assert [it.reaches(offset) for offset in (9, 10, 20, 21)] == [False, True, True, False]
    assert read(it, 10, 3) == ([11, 12, 13], 13)
    assert read(it, 18, 3) == ([19, 20], 20)
    assert read(it, 20, 3) == ([], 20)


def test_a_page_reaches_past_an_event_that_was_deleted() -> None:
    it = ring(page(11, 14, without=(12, 14)), page(15, 16, without=(15, 16)))
    assert read(it, 10, 1) == ([11], 11)
    assert read(it, 11, 5) == ([13], 16)


def test_it_drops_its_oldest_past_either_limit() -> None:
    it = ring(page(11, 30), max_events=5)
    assert (it.after, it.upto, it.reaches(24)) == (25, 30, False)
    it = ring(page(11, 20), page(21, 30), max_bytes=4_100)  # of 400 each
    assert (it.after, read(it, 20, 100)[0]) == (20, list(range(21, 31)))


def test_an_event_larger_than_the_ring_is_not_kept() -> None:
    it = ring(page(11, 11), max_bytes=50)
    assert (it.after, it.upto) == (11, 11)
    assert read(it, 11, 5) == ([], 11)
