"""Texts that break a careless writer or reader: of COPY, of JSON, of lines."""

import random
from collections.abc import Iterator

TEXTS = {
    "empty": "",
    "a space": " ",
    "a tab": "two\tcolumns",
    "a newline": "two\nrows",
    "a carriage return": "two\rrows",
    "both": "two\r\nrows\r\n",
    "a backslash": "C:\\temp\\new",
    "backslashes at the end": "\\\\\\",
    "the null of COPY": "\\N",
    "the end of COPY": "\\.",
    "the end of COPY on a line of its own": "before\n\\.\nafter",
    "an octal escape": "\\101",
    "a row within": "x\n38031c8e-4a7c-4017-a3d4-133b1a5f86ad\t1\t\\N",
    "quotes": "\"double\" 'single' `back`",
    "members": '","quantity":9,"note":"',
    "colons": "a:b::c",
    "SQL": "'); DROP TABLE orders; --",
    "controls": "\x01\x08\x0b\x0c\x1b\x7f\x85",
    "line separators": "\u2028\u2029",
    "letters and signs": "Grüße, 東京, עברית, 😀",
    "a character above the BMP at each end": "\U00010000\U0010ffff",
}
"""None holds U+0000, which PostgreSQL cannot store."""

# Controls, quotes and what escapes, ends of lines, marks that join or turn what is beside them, noncharacters, and the
# ends of each plane and of what UTF-8 writes with one, two, three and four bytes.
_NASTY = [
    *map(chr, range(1, 0x20)),
    *"\"'\\/:,{}[]Nn. \x7f\x80\x85\xa0\xad\u0300\u0345\u0590\u07ff\u0800\u200b\u200d\u200e\u200f\u2028\u2029",
    *"\u202a\u202d\u202e\u2066\u2069\ud7ff\ue000\ufdd0\ufeff\ufffd\ufffe\uffff",
    *"\U00010000\U0001f468\U0001f3fd\U000e0001\U0010fffe\U0010ffff",
]


def nasty_texts(count: int, seed: int, most: int = 64) -> Iterator[str]:
    """Texts of 1 to `most` such characters, the same for a seed."""
    chance = random.Random(seed)
    for _ in range(count):
        yield "".join(chance.choices(_NASTY, k=chance.randint(1, most)))


def nasty_reasons(count: int, seed: int = 17) -> list[str]:
    """As many reasons of cancellations: the known texts first, then random ones."""
    return [*filter(None, TEXTS.values()), "\U0010ffff" * 200, *nasty_texts(count, seed, 200)][:count]
