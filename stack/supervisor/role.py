"""What a keeper is started for."""

from typing import Literal, TypeAlias

Role: TypeAlias = Literal["up", "servers"]
"""A whole stack, or the servers of a test run alone."""
