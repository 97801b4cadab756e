"""An error in one line, in words, for logs, metrics and health."""

import re

_MAX_CHARACTERS = 500
# The repr of an object, as libraries put it into their messages: `<TCPTransport closed=True 0x7f…>`. It tells an
# operator nothing, and makes each line differ from the last.
_OBJECT = re.compile(r"<([\w.]+)[^<>]*\b0x[0-9a-f]+[^<>]*>")
_ADDRESS = re.compile(r"\s*(?:\bat )?\b0x[0-9a-f]{6,}\b")


def one_line(text: object) -> str:
    """Without line breaks and the addresses of objects, and not longer than a log line should be."""
    named = _OBJECT.sub(lambda found: found[1].rpartition(".")[2], str(text))
    words = " ".join(_ADDRESS.sub("", named).split())
    return words if len(words) <= _MAX_CHARACTERS else f"{words[:_MAX_CHARACTERS]}…"


def describe(error: BaseException) -> str:
    """Type and text; the type alone of an error that has no text of its own."""
    text = one_line(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
