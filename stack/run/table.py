"""The status of a stack as a table for people and as JSON for programs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from rich.markup import escape
from rich.table import Table

from stack.home.state import SERVERS, SERVICES, Part, StackState
from stack.terminal import PIPE_WIDTH, say, show_table

# In the order in which a user needs them, each with the path to open first.
PATHS = {
    "ingest_api": "/api/v1/orders",
    "product_api": "/products",
    "persist_worker": "/metrics",
    "product_consumer": "/metrics",
    "event_relay": "/metrics",
}


EXAMPLE_QUANTITY = 2


def without_password(url: str) -> str:
    """The URL, or comma-separated URLs of a cluster's nodes, without passwords."""
    return ",".join(map(_without_password, url.split(",")))


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    user = f"{parts.username}@" if parts.username else ""
    return urlunsplit(parts._replace(netloc=user + host))


# Parts that never started are listed too: programs read one shape.
UNKNOWN = {name: Part("") for name in (*SERVICES, *SERVERS)}


def as_dict(state: StackState, *, is_running: bool) -> dict[str, Any]:
    """What `status --json` prints: URLs with their passwords, for programs on this machine."""
    known = {**UNKNOWN, **state.parts}
    if not is_running:
        known = {name: replace(part, pid=None, state=_at_rest(part.state)) for name, part in known.items()}
    parts = {
        name: {
            "url": part.url or None,
            "pid": part.pid,
            "state": part.state,
            "restarts": part.restarts,
            "why": part.why or None,
        }
        for name, part in known.items()
    }
    return {
        "running": is_running,
        "phase": state.phase if is_running else "down",
        "supervisor": {"pid": state.supervisor[0] if is_running else None},
        "services": {name: parts[name] for name in SERVICES},
        **{name: parts[name] for name in SERVERS},
        "management_url": state.management_url,
    }


def _at_rest(state: str) -> str:
    return state if state == "external" else "stopped"


def print_table(state: StackState, logs: str) -> None:
    """Print the table. `logs`: where the logs are. Fits into 80 columns; longer lines wrap, and are never cut."""
    table = Table(box=None, padding=(0, 0, 0, 2), show_header=False)
    for name, path in PATHS.items():
        if part := state.parts.get(name):
            is_url = part.url.startswith("http")
            table.add_row(f"[bold]{name}[/]", escape(part.url + (path if is_url else "")), _state(part))
    for name in SERVERS:
        if part := state.parts.get(name):
            table.add_row(name, escape(without_password(part.url)), _state(part))
    if state.management_url:
        table.add_row("rabbitmq UI", without_password(state.management_url))
    table.add_row("logs", escape(logs))
    show_table(table, PIPE_WIDTH)


def _state(part: Part) -> str:
    colour = "green" if part.state.startswith(("ready", "external")) else "yellow"
    return f"[{colour}]{part.state}[/]" + (f" (restarts: {part.restarts})" if part.restarts else "")


def print_next(state: StackState, product_id: str | None, *, needs_key: bool) -> None:
    """Print commands to try, ready to paste. `needs_key`: the APIs ask for a key."""
    say("try        ./headrace demo")
    if product_id:
        body = f'{{"productId":"{product_id}","quantity":{EXAMPLE_QUANTITY}}}'
        url = f"{state.parts['ingest_api'].url}/api/v1/orders"
        if needs_key:
            say("           KEY=$(./headrace keys add me --scope orders:write)")
        key = ' -H "Authorization: Bearer $KEY"' if needs_key else ""
        say(f"           curl -s {url}{key} -H 'Content-Type: application/json' -d '{body}'")
