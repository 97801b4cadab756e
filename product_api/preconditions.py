"""Preconditions on a product's version. A product's ETag is its version, in quotes."""

from collections.abc import Sequence

from web.problems import problems
from web.requests.preconditions import client_has, if_match_holds


def etag(version: int) -> str:
    return f'"{version}"'


def require_if_match(values: Sequence[str]) -> None:
    """Raises Problem (428) without an If-Match, for a change that could overwrite what its client has not seen."""
    if not values:
        raise problems.precondition_required()


def check_if_match(values: Sequence[str], version: int) -> None:
    """Raises Problem: 412 if `version` is not among the tags, or only as a weak one; 400 for malformed tags.

    `values`: the header's values.
    """
    if not if_match_holds(values, etag(version)):
        raise problems.version_mismatch(version)


def matches_if_none_match(values: Sequence[str], version: int) -> bool:
    """Whether the client has this version already."""
    return client_has(values, etag(version))
