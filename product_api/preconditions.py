"""If-Match and If-None-Match (RFC 9110, sections 13.1.1 and 13.1.2). A product's ETag is its version, in quotes."""

import re
from collections.abc import Sequence

from web import problems

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_LIST = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")
_TAGS = re.compile(_TAG)


def etag(version: int) -> str:
    return f'"{version}"'


def require_if_match(values: Sequence[str]) -> None:
    """Raises Problem: 428 without an If-Match, for a change that would write over what its client has not seen."""
    if not values:
        raise problems.precondition_required()


def check_if_match(values: Sequence[str], version: int) -> None:
    """Raises Problem: 412 if `version` is not among the tags, 400 for what are no tags.

    `values`: the header's, one for each time it was sent. A weak tag never matches: it does not promise the same bytes.
    """
    header = ", ".join(values)
    if not values or header.strip() == "*":
        return
    if not _LIST.fullmatch(header):
        raise problems.malformed('If-Match must be * or ETags as they were sent, quotes included, like "3".')
    if etag(version) not in _TAGS.findall(header):
        raise problems.version_mismatch(version)


def matches_if_none_match(values: Sequence[str], version: int) -> bool:
    """Whether the client has this version already. Weak tags count. What are no tags is ignored: a GET is harmless."""
    header = ", ".join(values)
    if header.strip() == "*":
        return True
    tags = _TAGS.findall(header) if _LIST.fullmatch(header) else []
    return etag(version) in (tag.removeprefix("W/") for tag in tags)
