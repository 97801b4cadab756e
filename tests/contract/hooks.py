"""What schemathesis loads: how NDJSON is made, what is sent in any case, and which failures are none.

Reads HEADRACE_CONTRACT_PRODUCTS, a JSON array of the ids that can be ordered. Leaves at
HEADRACE_CONTRACT_EXCUSED how often each excuse held, when the process ends.
"""

import atexit
import json
import os
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import schemathesis
from requests.structures import CaseInsensitiveDict
from schemathesis.core.failures import Failure

from ingest_api.requests import MAX_QUANTITY
from tests.contract.excuses import Refusal, Sent, excuses_for, refusals
from tests.contract.provocations import PROVOCATIONS
from web.serving.body import NDJSON

PRODUCTS: list[str] = json.loads(os.environ["HEADRACE_CONTRACT_PRODUCTS"])
EXCUSES = excuses_for(PRODUCTS)

excused: Counter[str] = Counter()
"""By reason."""


# ── what is sent


@schemathesis.serializer(*NDJSON)
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


@schemathesis.hook
def before_add_examples(context: schemathesis.HookContext, examples: "list[schemathesis.Case[Any]]") -> None:
    """Send the provocations too. An operation has an example, for each has one in its document."""
    assert context.operation is not None
    changes = PROVOCATIONS.get(context.operation.definition.raw["operationId"], ())
    examples.extend([_changed(examples[0], change) for change in changes])


def _changed(case: "schemathesis.Case[Any]", change: Mapping[str, Any]) -> "schemathesis.Case[Any]":
    """Another case, which is checked against the schema again: if it is not valid, no excuse is needed for it."""
    other = case.derive(keep_auth=True)
    other._meta = deepcopy(case.meta)  # each is judged by itself
    for container, value in change.items():
        setattr(other, container, _headers(case, value) if container == "headers" else value)
    return other


def _headers(case: "schemathesis.Case[Any]", others: Mapping[str, str]) -> "CaseInsensitiveDict[str]":
    """`others` in the place of its own, but for whose it is."""
    return CaseInsensitiveDict({**others, "Authorization": case.headers["Authorization"]})


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
