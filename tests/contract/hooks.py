"""The hooks that schemathesis loads: they encode NDJSON, add the provocations, and drop exempted failures.

Reads HEADRACE_CONTRACT_PRODUCTS, a JSON array of the ids that can be ordered. When the process ends, it writes to the
file HEADRACE_CONTRACT_EXEMPTED how often each exemption was used.
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
from tests.contract.exemptions import Refusal, Sent, exemptions_for, refusals
from tests.contract.provocations import PROVOCATIONS
from web.requests.waits import MAX_WAIT_S
from web.serving.body import NDJSON

PRODUCTS: list[str] = json.loads(os.environ["HEADRACE_CONTRACT_PRODUCTS"])
EXEMPTIONS = exemptions_for(PRODUCTS)

exempted: Counter[str] = Counter()
"""Reason → how often it was used."""


# ── requests


@schemathesis.serializer(*NDJSON)
def _ndjson(_: schemathesis.SerializationContext, value: Any) -> bytes:
    """Encode NDJSON, which schemathesis does not know: to OpenAPI its body is any text.

    Made-up text becomes orders. Examples, and values that are not text, are sent as they are.
    """
    text = value if _are_objects(str(value)) or not isinstance(value, str) else _lines_of(value)
    return str(text).encode(errors="surrogatepass")


def _are_objects(text: str) -> bool:
    try:
        return all(isinstance(json.loads(line), dict) for line in text.splitlines()) and bool(text)
    except ValueError:
        return False


def _lines_of(text: str) -> str:
    """One order for each character."""
    numbers = [ord(character) for character in text or "0"]
    orders = [{"productId": PRODUCTS[it % len(PRODUCTS)], "quantity": 1 + it % MAX_QUANTITY} for it in numbers]
    return "\n".join(map(json.dumps, orders))


@schemathesis.hook
def before_add_examples(context: schemathesis.HookContext, examples: "list[schemathesis.Case[Any]]") -> None:
    """Send the provocations too, as changes of the operation's first example. Each operation has one."""
    assert context.operation is not None
    changes = PROVOCATIONS.get(context.operation.definition.raw["operationId"], ())
    examples.extend([_changed(examples[0], change) for change in changes])


def _changed(case: "schemathesis.Case[Any]", change: Mapping[str, Any]) -> "schemathesis.Case[Any]":
    """A changed copy of the case. schemathesis judges it anew: only a case that is valid needs an exemption."""
    other = case.derive(keep_auth=True)
    other._meta = deepcopy(case.meta)  # so that a judgement of one does not change the other
    for container, value in change.items():
        setattr(other, container, _headers(case, value) if container == "headers" else value)
    return other


def _headers(case: "schemathesis.Case[Any]", others: Mapping[str, str]) -> "CaseInsensitiveDict[str]":
    """`others` instead of the case's headers, except for its Authorization."""
    return CaseInsensitiveDict({**others, "Authorization": case.headers["Authorization"]})


@schemathesis.hook
def before_call(_: schemathesis.HookContext, case: "schemathesis.Case[Any]", __: dict[str, Any]) -> None:
    """Wait for an event for a second instead of many: the time of an answer is checked, too. It stays a valid wait."""
    if case.operation.definition.raw["operationId"] == "listEvents" and _is_long_wait((case.query or {}).get("wait")):
        case.query["wait"] = 1


def _is_long_wait(value: Any) -> bool:
    try:
        return 1 < float(value) <= MAX_WAIT_S
    except (TypeError, ValueError):
        return False


# ── answers


def exemption_of(refusal: Refusal) -> str | None:
    """The reason of the exemption that covers this refusal, or None."""
    for exemption in EXEMPTIONS:
        if (exemption.failure, exemption.kind, exemption.at) == refusal[:3] and exemption.holds(refusal):
            return exemption.reason
    return None


@schemathesis.hook
def filter_failure(
    _: schemathesis.HookContext, failure: Failure, case: "schemathesis.Case[Any]", response: schemathesis.Response
) -> bool:
    """Whether it is a failure: at least one of the answer's errors is not exempted."""
    sent = Sent(case.operation.definition.raw["operationId"], case.headers, case.query, case.body)
    try:
        reasons = [exemption_of(it) for it in refusals(type(failure).__name__, sent, response.json())]
    except (ValueError, AttributeError, TypeError):
        return True  # an unreadable answer is not exempted
    if not reasons or None in reasons:
        return True
    exempted.update(filter(None, reasons))
    return False


@atexit.register
def _leave_count() -> None:
    Path(os.environ["HEADRACE_CONTRACT_EXEMPTED"]).write_text(json.dumps(exempted))
