"""Refuses what HTTP forbids in a request's head and the parser lets pass: Host, Transfer-Encoding, version."""

import re

import httptools

from web.access.hosts import Hosts
from web.problems import problems
from web.problems.problems import Problem
from web.requests.head import Head

# A name or an address, and a port (RFC 9112, section 3.2; RFC 3986, section 3.2.2); or nothing, for a target without an
# authority. Two servers in a row may take anything else for two different hosts.
_HOST = re.compile(
    rb"(?:(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*|\[[0-9A-Fa-f:.]+\]|\[v[0-9A-Fa-f]+\.[\w.~!$&'()*+,;=:-]+\])(?::[0-9]*)?"
)


# An absolute-form target whose path is empty: scheme, authority, and at most a query.
_WITHOUT_PATH = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*://[^/?#]+)((?:[?#].*)?)", re.DOTALL)


def with_path(target: bytes) -> bytes:
    """Adds the path `/` to a request target that is a URI with an empty path: the two are the same (RFC 9110, section
    4.2.3).
    """
    match = _WITHOUT_PATH.fullmatch(target)
    return b"%b/%b" % match.groups() if match else target


class Refused(Exception):
    """A refused head. Raised inside a callback of the parser, it ends the parsing."""

    def __init__(self, refusal: str | Problem) -> None:
        self.problem = problems.malformed(refusal) if isinstance(refusal, str) else refusal


def check_head(version: str, head: Head, allowed: Hosts | None = None) -> None:
    """Raises Refused for a head that is not served. `allowed`: the hosts that are answered; None: any."""
    if version != "1.1" and version != "1.0":
        raise Refused(f"This is HTTP/{version}. Send HTTP/1.1.")
    for host in head.hosts:
        if not _HOST.fullmatch(host.strip(b" \t")):
            raise Refused("The Host header is malformed. Send a name or an address, and the port if the URL has one.")
        if allowed is not None and (refusal := allowed.refusal(host)) is not None:
            raise Refused(refusal)
    for coding in head.transfer_encodings:
        _check_transfer_encoding(version, coding)
    hosts = len(head.hosts)
    if hosts != 1 and (hosts or version == "1.1"):
        raise Refused(f"The request has {hosts} Host headers. Send one.")


def _check_transfer_encoding(version: str, value: bytes) -> None:
    """Any coding but chunked would be ignored here, and its bytes taken for the content (RFC 9112, section 6.1).
    HTTP/1.0 does not even know chunked: a proxy in front may have ended the body somewhere else.
    """
    if value.strip(b" \t").lower() != b"chunked":
        raise Refused("The Transfer-Encoding is not understood. Send chunked alone, or Content-Length.")
    if version == "1.0":
        raise Refused("HTTP/1.0 has no Transfer-Encoding. Send Content-Length, or HTTP/1.1.")


def problem_of(error: httptools.HttpParserError) -> Problem:
    """The problem to answer for the error that ended the parsing."""
    if isinstance(error.__context__, Refused):
        return error.__context__.problem
    if isinstance(error, httptools.HttpParserCallbackError):  # uvicorn could not take the target apart
        return problems.malformed("The target of the request is none that is served here. Send a path, like /livez.")
    if "PRI" in str(error):  # every HTTP/2 connection begins with it
        return problems.malformed("This is HTTP/2.0. Send HTTP/1.1.")
    return problems.malformed(f"This is not HTTP/1.1: {error}.")
