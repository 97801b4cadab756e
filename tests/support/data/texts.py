"""Texts that break a careless writer or reader: of COPY, of JSON, of lines."""

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
