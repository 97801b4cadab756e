"""Who a request is from, as the endpoints need to know it."""

from dataclasses import dataclass

from starlette.types import Scope

ORDERS_WRITE, ORDERS_READ, PRODUCTS_WRITE, OPS = "orders:write", "orders:read", "products:write", "ops"
SCOPES = (ORDERS_WRITE, ORDERS_READ, PRODUCTS_WRITE, OPS)

# What an operation may need besides one of the scopes.
PUBLIC = "public"
"""Nothing."""
ANY_KEY = "any key"
"""A valid key, whatever its scopes."""

_IN_SCOPE = "headrace.client"


@dataclass(frozen=True, slots=True)
class Client:
    """Who holds an API key. A client may have several, so that keys can be changed without a gap."""

    name: str
    """"" where the service is open, and nobody is asked for a key."""
    scopes: frozenset[str]

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
