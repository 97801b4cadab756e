"""Refuses query parameters that the operation does not take, and parameters given twice that are no list.

An ignored filter would look applied: `?status=FAILED` would list the orders of every status.
"""

from collections import Counter
from collections.abc import Collection
from urllib.parse import parse_qsl

from web.problems import problems
from web.problems.problems import FieldError

# More than any operation takes: listOrders takes 100 ids. A head of the largest size has room for 30,000, which take
# 15 ms to parse.
MAX_PARAMETERS = 120
# How much of an unknown name an answer repeats.
_MAX_SHOWN = 60


def check_query(query: bytes, takes: Collection[str], lists: Collection[str] = ()) -> None:
    """Raises Problem (400) that names each parameter of the query that is not in `takes`, or comes more than once and
    is not in `lists`.
    """
    try:
        # Parsed as Starlette parses it afterwards, for the endpoint.
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise problems.invalid_query([FieldError(f"The query has more than {MAX_PARAMETERS} parameters.")]) from None
    counts = Counter(name for name, _ in pairs)
    errors = [error for name, count in counts.items() if (error := _error(name, 1 if name in lists else count, takes))]
    if errors:
        raise problems.invalid_query(errors)


def _error(name: str, count: int, takes: Collection[str]) -> FieldError | None:
    shown = name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}…"
    if name not in takes:
        known = f"It takes {', '.join(takes)}." if takes else "It takes none."
        return FieldError(f"This operation does not take the query parameter {shown!r}. {known}", parameter=shown)
    if count > 1:
        return FieldError(f"The query parameter {name} comes {count} times. Send it once.", parameter=name)
    return None
