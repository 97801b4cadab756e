"""What JSON is to us: RFC 8259, and no body that two readers understand differently."""

import json
from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec

from web.problems.problems import Problem, malformed

# msgspec raises UnicodeDecodeError for text that is not UTF-8, and RecursionError for deep nesting, not DecodeError.
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

# How much of a client's own text an answer repeats.
MAX_SHOWN = 60


def check_strictly(body: bytes, *, may_name: bool = True) -> None:
    """Raises Problem (400) for a body that is not JSON, and for JSON that readers understand differently. That is:
    duplicate members (RFC 8259, section 4) and halves of surrogate pairs (section 8.2).

    `may_name`: whether the problem may repeat the name of a member.
    """
    unique = partial(_unique, may_name=may_name)
    try:
        # Numbers stay text: nothing is computed from them, and parsing 60,000 digits takes long.
        content = json.loads(
            body.decode(), object_pairs_hook=unique, parse_constant=_refuse_constant, parse_int=str, parse_float=str
        )
        if b"\\u" in body:
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise not_json(error) from None


def shown(name: str) -> str:
    """The name of a member as JSON, cut if it is long."""
    text = json.dumps(name)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _unique(pairs: list[tuple[str, Any]], *, may_name: bool) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        twice = _first_repeated(name for name, _ in pairs)
        member = f"The member {shown(twice)}" if may_name else "A member"
        raise malformed(f"{member} comes twice in one object. Send it once.")
    return members


def _first_repeated(names: Iterable[str]) -> str:
    """The first name that comes twice. One pass: counting each of 100,000 names, the most in a body, takes minutes."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    raise AssertionError("no name comes twice")


def _refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python's reader accepts."""
    raise ValueError(f"{name} is no JSON number")


def not_json(error: Exception) -> Problem:
    """The problem for an error, in the words of JSON instead of its decoders'."""
    if isinstance(error, RecursionError):
        return malformed("The body is nested too deeply to be read.")
    if isinstance(error, UnicodeEncodeError):
        return malformed("The body has half of a surrogate pair in a string. Send both halves, or plain UTF-8.")
    if isinstance(error, UnicodeDecodeError):
        return malformed(f"The body is not UTF-8: the byte at {error.start} does not belong there.")
    if isinstance(error, json.JSONDecodeError):
        reason = error.msg.partition(" (")[0].removesuffix(" at")
        return malformed(f"The body is not valid JSON at character {error.pos}: {reason}.")
    return malformed(f"The body is not valid JSON: {error}.")
