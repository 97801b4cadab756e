"""COPY of text: every character that PostgreSQL can store comes back unchanged, even if COPY gives it a meaning."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest

from database.connection import Connection
from database.copy_text import UnsafeText, copy_rows, copy_text
from database.faults import Fault, describe, fault_of
from pipeline.contract.columns import Column, Type
from tests.support.data.texts import TEXTS
from tests.support.services.workers import connected

COLUMNS = (Column("before", "text"), Column("it", "text"), Column("after", "text"))


@dataclass
class Row:
    it: str | None
    before: str | None = "before"
    after: str | None = None


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        await it.execute("CREATE TEMPORARY TABLE t (place serial, before text, it text, after text)")
        yield it


async def copied(connection: Connection, rows: Sequence[Row]) -> list[Row]:
    await copy_rows(connection, "t", COLUMNS, rows)
    return [Row(**row) for row in await connection.fetch("SELECT before, it, after FROM t ORDER BY place")]


async def test_any_text_comes_back_as_it_went(connection: Connection) -> None:
    rows = [Row(text, before=text, after=text) for text in (*TEXTS.values(), None)]
    assert await copied(connection, rows) == rows


async def test_every_character_comes_back_as_it_went(connection: Connection) -> None:
    """Each character alone between two letters, so that no neighbour's escape hides it; 64 in a row."""
    characters = [chr(it) for it in (*range(1, 0xD800), *range(0xE000, 0x110000))]
    rows = [Row("a".join(characters[at : at + 64])) for at in range(0, len(characters), 64)]
    assert await copied(connection, rows) == rows


@pytest.mark.parametrize("place", ["before", "it", "after"])
async def test_a_nul_is_refused_in_words_before_the_copy_begins(connection: Connection, place: str) -> None:
    with pytest.raises(UnsafeText) as refused:
        await copy_rows(connection, "t", COLUMNS, [Row("good"), Row(**{"it": "it", place: "one\0two"})])
    assert describe(refused.value) == "22000 a text holds a NUL (U+0000), which PostgreSQL cannot store"
    assert fault_of(refused.value) is Fault.DATA
    assert await copied(connection, [Row("good")]) == [Row("good")]


@pytest.mark.parametrize("type_", ["uuid", "bytea"])
@pytest.mark.parametrize("text", ["a\tb", "a\nb", "\\N", "\\.", "ab\\"])
def test_what_is_no_text_may_not_hold_what_text_may(type_: Type, text: str) -> None:
    """Escaped, it could become a value, because PostgreSQL ignores white space between hex digits."""
    with pytest.raises(UnsafeText, match="a field that is no text holds a tab, a newline or a backslash"):
        copy_text([Column("it", type_)], [Row(text)])


async def test_no_rows_are_no_line(connection: Connection) -> None:
    assert copy_text(COLUMNS, []) == b""
    assert await copied(connection, []) == []
