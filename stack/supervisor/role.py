"""What a keeper runs."""

from typing import Literal, TypeAlias

Role: TypeAlias = Literal["up", "servers"]
"""`up`: a whole stack. `servers`: only the servers, for a test run."""
