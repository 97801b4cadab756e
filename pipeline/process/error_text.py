"""Describes an error in one line, for logs, metrics and health."""

import re

_MAX_CHARACTERS = 500
# An object's repr in a library's message: `<TCPTransport closed=True 0x7f…>`. It tells an operator nothing, and makes
# every line different.
_OBJECT = re.compile(r"<([\w.]+)[^<>]*\b0x[0-9a-f]+[^<>]*>")
_ADDRESS = re.compile(r"\s*(?:\bat )?\b0x[0-9a-f]{6,}\b")


def one_line(text: object) -> str:
    """The text without line breaks and object addresses, cut to the length of a log line."""
    named = _OBJECT.sub(lambda found: found[1].rpartition(".")[2], str(text))
    words = " ".join(_ADDRESS.sub("", named).split())
    return words if len(words) <= _MAX_CHARACTERS else f"{words[:_MAX_CHARACTERS]}…"


def describe(error: BaseException) -> str:
    """Type and text of an error; the type alone if it has no text, as many of the clients' errors."""
    text = one_line(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
