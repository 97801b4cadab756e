"""Static content that does not change while a process runs: compressed once, and served with an ETag."""

import gzip
from functools import cached_property
from hashlib import sha256

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from web.requests.preconditions import client_has

HTML, CSS, JAVASCRIPT, JSON = "text/html; charset=utf-8", "text/css", "text/javascript", "application/json"

# Nothing from another host, no inline script. connect-src: requests that a reader tries out. The viewer's icons are
# data: images.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Resource:
    """An ASGI application that answers GET and HEAD with static content."""

    def __init__(
        self, gzipped: bytes, media_type: str, *, policy: str = _POLICY, vary: str = "Accept-Encoding"
    ) -> None:
        self._gzipped, self._media_type = gzipped, media_type
        self._headers = {
            # Weak: compressed or not, the content is the same in other bytes.
            "ETag": f'W/"{sha256(gzipped).hexdigest()[:20]}"',
            "Cache-Control": "no-cache",
            "Vary": vary,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Content-Security-Policy": policy,
        }

    @classmethod
    def of(cls, content: bytes, media_type: str, *, policy: str = _POLICY, vary: str = "Accept-Encoding") -> "Resource":
        return cls(gzip.compress(content, mtime=0), media_type, policy=policy, vary=vary)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(Request(scope))(scope, receive, send)

    def _answer(self, request: Request) -> Response:
        if client_has(request.headers.getlist("if-none-match"), self._headers["ETag"]):
            return Response(status_code=304, headers=self._headers)
        if _takes_gzip(request):
            headers = self._headers | {"Content-Encoding": "gzip"}
            return Response(self._gzipped, headers=headers, media_type=self._media_type)
        return Response(self._content, headers=self._headers, media_type=self._media_type)

    @cached_property
    def _content(self) -> bytes:
        """The content uncompressed, made once, on the first request for it: nearly every client takes gzip. Made for
        each, 1.7 MB of JavaScript would stop the process for 7 ms a time, and stay with a client that does not read it.
        """
        return gzip.decompress(self._gzipped)


def _takes_gzip(request: Request) -> bool:
    for coding in ",".join(request.headers.getlist("accept-encoding")).split(","):
        name, _, weight = coding.partition(";")
        if name.strip().lower() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
