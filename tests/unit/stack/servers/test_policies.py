"""Which policies of a broker remove accepted orders."""

from typing import Any

import pytest

from stack.servers.policies import dangers

ALL = ".*"
ACCEPTED = "^orders[.]accepted$"


def policy(pattern: str = ACCEPTED, apply_to: str = "queues", **definition: object) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in definition.items()}
    return {"name": "p", "pattern": pattern, "apply-to": apply_to, "definition": named}


@pytest.mark.parametrize(
    ("it", "told"),
    [
        (policy(message_ttl=500), ["on orders.accepted removes orders that wait there for 500 ms: they are parked"]),
        (
            policy("orders.dead", message_ttl=500),
            ["on orders.dead removes orders that wait there for 500 ms: they are lost"],
        ),
        (
            policy(expires=9),
            ["deletes the queue, with its orders, 9 ms after its last consumer has gone: they are lost"],
        ),
        (policy(max_length=5, overflow="drop-head"), ["removes the oldest messages past 5: they are parked"]),
        (policy(max_length_bytes=5, overflow="drop-head"), ["removes the oldest messages past 5 bytes"]),
        (policy(overflow="drop-head"), ["removes the oldest messages of a full queue"]),
        (policy(delivery_limit=3), ["dead-letters orders after 3 deliveries"]),
        (
            policy(ALL, "all", message_ttl=1),
            ["orders.accepted", "orders.created", "orders.cancel_requested", "orders.dead"],
        ),
        (
            policy("(?<broken", message_ttl=1),
            ["orders.accepted", "orders.created", "orders.cancel_requested", "orders.dead"],
        ),
        ({**policy(), "definition": '{"message-ttl": 7}'}, ["for 7 ms"]),
    ],
)
def test_what_removes_orders_is_told(it: dict[str, Any], told: list[str]) -> None:
    lines = dangers([it])
    assert len(lines) == len(told)
    for line, part in zip(lines, told, strict=True):
        assert line.startswith("the policy 'p' on orders.")
        assert part in line


@pytest.mark.parametrize(
    "it",
    [
        policy("^logs", message_ttl=1),
        policy(ALL, "exchanges", message_ttl=1),
        policy(ALL, "streams", message_ttl=1),
        policy(max_length=5),
        policy(max_length=5, overflow="reject-publish"),
        policy(delivery_limit=100),
        policy(dead_letter_exchange="elsewhere", queue_leader_locator="balanced"),
        {},
    ],
)
def test_what_removes_none_is_not(it: dict[str, Any]) -> None:
    assert dangers([it]) == []
