"""If-Match and If-None-Match (RFC 9110, sections 13.1.1 and 13.1.2), for any resource with an ETag.

`values` are the header's values, one for each time that it was sent.
"""

import re
from collections.abc import Sequence

from web.problems import problems

TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_LIST = re.compile(rf"[ \t,]*{TAG}(?:[ \t]*,[ \t,]*{TAG})*[ \t,]*")
_TAGS = re.compile(TAG)


def if_match_holds(values: Sequence[str], etag: str) -> bool:
    """Whether If-Match lets a change go on. Without the header, it does.

    The comparison is strong: a weak tag never matches, because it does not promise the same bytes. Raises Problem: 400
    for malformed tags; 412 `weak-etag` if only the weakness of a tag keeps the header from matching. Otherwise the
    client would be told for ever that something has changed.
    """
    header = ", ".join(values)
    if not values or _is_any(header):
        return True
    if not _LIST.fullmatch(header):
        raise problems.malformed('If-Match must be * or ETags as they were sent, quotes included, like "3".')
    tags = _TAGS.findall(header)
    if not _is_strong(etag):
        return False
    weak = [tag for tag in tags if not _is_strong(tag)]
    if etag not in tags and (weak == tags or f"W/{etag}" in weak):
        raise problems.weak_etag()
    return etag in tags


def client_has(values: Sequence[str], etag: str) -> bool:
    """Whether If-None-Match names the ETag. Weak tags count too. Malformed tags are ignored: a GET is harmless."""
    header = ", ".join(values)
    if _is_any(header):
        return True
    tags = _TAGS.findall(header) if _LIST.fullmatch(header) else []
    return _opaque(etag) in map(_opaque, tags)


def _is_any(header: str) -> bool:
    return header.strip() == "*"


def _is_strong(etag: str) -> bool:
    return not etag.startswith("W/")


def _opaque(etag: str) -> str:
    return etag.removeprefix("W/")
