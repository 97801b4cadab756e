"""The client that a request comes from, as endpoints need to know it; and what finds it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

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


@dataclass(frozen=True, slots=True)
class Client:
    """The holder of an API key, with that key's rights. A client may have several keys, each with its own scopes."""

    name: str
    """"" where the service is open, and asks for no key."""
    scopes: frozenset[str]
    orders_per_s: int | None = None
    """How many orders a second it may send to this process; None: as many as it likes."""

    @property
    def sees_all(self) -> bool:
        """Whether the client may read the orders of others."""
        return not self.name or OPS in self.scopes

    def sees_as(self, other: "Client") -> bool:
        """Whether both may read the same orders."""
        return (self.name, self.sees_all) == (other.name, other.sees_all)


ANYONE = Client("", frozenset(SCOPES))


Guard: TypeAlias = Callable[[Sequence[bytes], str], Client]
"""Finds the client of a request from its Authorization headers, and checks that it has what the operation needs: a
scope, ANY_KEY or PUBLIC. Raises Problem (401, 403).
"""


def unguarded(_: Sequence[bytes], __: str) -> Client:
    """The Guard of an application that asks nobody for a key."""
    return ANYONE
