"""Who a request is from, as the endpoints need to know it."""

from dataclasses import dataclass

from starlette.types import Scope

from pipeline.contract.api_keys import OPS as OPS
from pipeline.contract.api_keys import ORDERS_READ as ORDERS_READ
from pipeline.contract.api_keys import ORDERS_WRITE as ORDERS_WRITE
from pipeline.contract.api_keys import PRODUCTS_WRITE as PRODUCTS_WRITE
from pipeline.contract.api_keys import SCOPES as SCOPES

# What an operation may need besides one of the scopes.
PUBLIC = "public"
"""Nothing."""
ANY_KEY = "any key"
"""A valid key, whatever its scopes."""

_IN_SCOPE = "headrace.client"


@dataclass(frozen=True, slots=True)
class Client:
    """Who holds an API key, as one key of theirs lets them in: a client may have several, with scopes of their own."""

    name: str
    """"" where the service is open, and nobody is asked for a key."""
    scopes: frozenset[str]
    orders_per_s: int | None = None
    """How many orders a second it may send to this process; None: as many as it likes."""

    @property
    def sees_all(self) -> bool:
        """Whether it may read the orders of others."""
        return not self.name or OPS in self.scopes


ANYONE = Client("", frozenset(SCOPES))


def client_of(scope: Scope) -> Client:
    """Who the request is from: what the guard of its route has found, or ANYONE where the service is open."""
    client: Client = scope.get(_IN_SCOPE, ANYONE)
    return client


def remember_client(scope: Scope, client: Client) -> None:
    scope[_IN_SCOPE] = client
