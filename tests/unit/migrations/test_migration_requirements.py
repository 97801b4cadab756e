"""What a database must be before anything is changed in it, and what its operator is told otherwise."""

import pytest

from migrations.requirements import Found, why_not

GOOD = Found(17, "17.2", "UTF8", False, "shop", "headrace", "public", True, None)


def test_a_good_database_is_not_refused() -> None:
    assert why_not(GOOD, changes=True) is None
    assert why_not(GOOD, changes=False) is None


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (GOOD._replace(major=13, version="13.22"), "PostgreSQL 13.22 is too old: Headrace needs 14 or later"),
        (GOOD._replace(encoding="LATIN1"), "CREATE DATABASE"),
    ],
)
def test_what_never_works_is_refused_also_when_all_is_up_to_date(found: Found, words: str) -> None:
    for changes in (True, False):
        assert words in (why_not(found, changes=changes) or "")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (GOOD._replace(is_read_only=True), "standby"),
        (GOOD._replace(schema=None, may_create=False), "search_path"),
        (GOOD._replace(may_create=False), "GRANT CREATE ON SCHEMA public TO headrace"),
        (GOOD._replace(foreign_table="orders belongs to owner"), "migrate as its owner"),
    ],
)
def test_what_only_a_change_needs_is_refused_only_when_there_is_one(found: Found, words: str) -> None:
    assert words in (why_not(found, changes=True) or "")
    assert why_not(found, changes=False) is None
