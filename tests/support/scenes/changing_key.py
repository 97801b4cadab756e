"""An API key that an operator changes while a request lasts."""

from collections.abc import Sequence

from web.access.clients import ORDERS_READ, Client
from web.problems import problems


class ChangingKey:
    """A Guard for a test: each request has this one key, which the test changes or revokes."""

    def __init__(self, name: str, *scopes: str) -> None:
        self._client: Client | None = None
        self.becomes(name, *scopes)

    def becomes(self, name: str, *scopes: str) -> None:
        self._client = Client(name, frozenset({ORDERS_READ, *scopes}))

    def revoke(self) -> None:
        self._client = None

    def __call__(self, _: Sequence[bytes], __: str) -> Client:
        if self._client is None:
            raise problems.invalid_token("This API key was revoked.")
        return self._client
