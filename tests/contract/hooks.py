"""What schemathesis loads: how NDJSON is made, and which failures are none.

Reads HEADRACE_CONTRACT_PRODUCTS, a JSON array of the ids that can be ordered. Leaves at
HEADRACE_CONTRACT_EXCUSED how often each excuse held, when the process ends.
"""

import atexit
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis.core.failures import Failure

from ingest_api.requests import MAX_QUANTITY
from tests.contract.excuses import Refusal, Sent, excuses_for, refusals

PRODUCTS: list[str] = json.loads(os.environ["HEADRACE_CONTRACT_PRODUCTS"])
EXCUSES = excuses_for(PRODUCTS)

excused: Counter[str] = Counter()
"""By reason."""


# ── what is sent


@schemathesis.serializer("application/x-ndjson")
def _ndjson(_: schemathesis.SerializationContext, value: Any) -> bytes:
    """schemathesis knows no NDJSON, and to OpenAPI its body is any text. So the text that it makes up becomes orders;
    the examples are sent as they are, and so is what is no text.
    """
    text = value if _are_objects(str(value)) or not isinstance(value, str) else _lines_of(value)
    return str(text).encode(errors="surrogatepass")


def _are_objects(text: str) -> bool:
    try:
        return all(isinstance(json.loads(line), dict) for line in text.splitlines()) and bool(text)
    except ValueError:
        return False


def _lines_of(text: str) -> str:
    """An order for each character."""
    numbers = [ord(character) for character in text or "0"]
    orders = [{"productId": PRODUCTS[it % len(PRODUCTS)], "quantity": 1 + it % MAX_QUANTITY} for it in numbers]
    return "\n".join(map(json.dumps, orders))


# ── what comes back


def excuse_of(refusal: Refusal) -> str | None:
    """The reason of the one that holds, or None."""
    for excuse in EXCUSES:
        if (excuse.failure, excuse.kind, excuse.at) == refusal[:3] and excuse.holds(refusal):
            return excuse.reason
    return None


@schemathesis.hook
def filter_failure(
    _: schemathesis.HookContext, failure: Failure, case: "schemathesis.Case[Any]", response: schemathesis.Response
) -> bool:
    """Whether it is one."""
    sent = Sent(case.operation.definition.raw["operationId"], case.headers, case.query, case.body)
    try:
        reasons = [excuse_of(it) for it in refusals(type(failure).__name__, sent, response.json())]
    except (ValueError, AttributeError, TypeError):
        return True  # what cannot be read is not excused
    if not reasons or None in reasons:
        return True
    excused.update(filter(None, reasons))
    return False


@atexit.register
def _leave_count() -> None:
    Path(os.environ["HEADRACE_CONTRACT_EXCUSED"]).write_text(json.dumps(excused))
