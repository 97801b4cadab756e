"""What does not change while a process runs, ready to be sent: compressed, and with an ETag."""

import gzip
from hashlib import sha256

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

HTML, CSS, JAVASCRIPT, JSON = "text/html; charset=utf-8", "text/css", "text/javascript", "application/json"

# Nothing from any other host, no inline script. connect-src: requests that a reader tries out. The viewer's icons are
# data: images.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Resource:
    """An ASGI application that answers GET and HEAD."""

    def __init__(self, gzipped: bytes, media_type: str) -> None:
        self._gzipped, self._media_type = gzipped, media_type
        self._headers = {
            # Weak: with and without compression it is the same content in other bytes.
            "ETag": f'W/"{sha256(gzipped).hexdigest()[:20]}"',
            "Cache-Control": "no-cache",
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Content-Security-Policy": _POLICY,
        }

    @classmethod
    def of(cls, content: bytes, media_type: str) -> "Resource":
        return cls(gzip.compress(content, mtime=0), media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(Request(scope))(scope, receive, send)

    def _answer(self, request: Request) -> Response:
        if self._headers["ETag"] in _listed(request, "if-none-match"):
            return Response(status_code=304, headers=self._headers)
        if _takes_gzip(request):
            headers = self._headers | {"Content-Encoding": "gzip"}
            return Response(self._gzipped, headers=headers, media_type=self._media_type)
        # Kept compressed alone: every browser takes that.
        return Response(gzip.decompress(self._gzipped), headers=self._headers, media_type=self._media_type)


def _listed(request: Request, header: str) -> list[str]:
    return [part.strip() for value in request.headers.getlist(header) for part in value.split(",")]


def _takes_gzip(request: Request) -> bool:
    for coding in _listed(request, "accept-encoding"):
        name, _, weight = coding.partition(";")
        if name.strip().lower() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
