"""`keys`: adds, lists and revokes API keys. The running APIs read the key file again within a second."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from pipeline.contract.api_keys import (
    CLIENT_RULE,
    MAX_ORDERS_PER_S,
    SCOPES,
    ApiKey,
    ScopeName,
    is_client_name,
    parse_token,
)
from stack.errors import HeadraceError
from stack.home import state as states
from stack.home.directory import Home
from stack.home.key_file import OWN_CLIENT, add_key, forget_keys, has_keys, read_keys, remove_key
from stack.process.http import get
from stack.terminal import note, say, show_table

EXAMPLE = "./headrace keys add shop --scope orders:write --scope orders:read"

DO_WITHOUT = "./headrace down; ./headrace keys open; ./headrace up -d"

FIRST = "It is the first key: from now on the APIs refuse requests without a key."
FIRST_ORDERS = (
    "Orders sent without a key belong to no client: only a key with orders:read and ops can read them. An"
    " Idempotency-Key used before now makes a new order."
)

# The APIs look at the file once a second; on a busy machine they are late.
KNOWN_WITHIN_S = 5.0
POLL_S = 0.05


def add(home: Home, client: str, scopes: Sequence[str], orders_per_s: int | None) -> int:
    """Print a new key's token on standard output, remarks on standard error. Returns 0 once the running APIs know it.

    Raises HeadraceError for an invalid client, scope or limit.
    """
    _check(client, orders_per_s)
    chosen = _chosen(scopes)
    warnings = _warnings(home, client)
    token = add_key(home, client, chosen, orders_per_s)
    print(token, flush=True)
    limit = "" if orders_per_s is None else f", at most {orders_per_s} orders/s"
    note(f"a key of {client} for {', '.join(chosen)}{limit}. It is shown only now: only its hash is stored.")
    note("Send it as: Authorization: Bearer KEY")
    for warning in warnings:
        note(warning)
    if not _is_known(home, token):
        note("The running services have not read it yet; find out why: ./headrace logs ingest_api")
    return 0


def show(home: Home, *, as_json: bool) -> int:
    """Print all keys, without their secrets. Returns 0."""
    keys = read_keys(home)
    if as_json:
        print(json.dumps([_as_dict(key) for key in keys]))
    elif keys:
        show_table(_table(keys))
    else:
        say("no keys: everybody who reaches this machine's loopback address is let in. The first key changes that:")
        say(f"  {EXAMPLE}")
    return 0


def revoke(home: Home, key_id: str) -> int:
    """Remove a key. The running APIs accept it for at most another second. Returns 0. Raises HeadraceError.

    The stack's own key may go while another is left; without any, the APIs would be open.
    """
    found, left = remove_key(home, key_id)
    if found is None:
        raise _not_revoked(key_id, left)
    if found.client == OWN_CLIENT:
        note(f"revoked {key_id}, the stack's own key; the running services obey within a second")
        note("`up` and `demo` on this machine create a new one when they need it.")
        return 0
    note(f"revoked {key_id} of {found.client}; the running services obey within a second")
    if all(key.client != found.client for key in left):
        note(f"{found.client} has no key any more. Its orders stay its own: never give the name to another client.")
    if all(key.client == OWN_CLIENT for key in left):
        note("It was the last key: only the stack itself gets in now, also after a restart.")
        note(f"To do without keys: {DO_WITHOUT}")
    return 0


def open_door(home: Home) -> int:
    """Remove all keys, so that the next `up` starts open. Returns 0.

    Raises HeadraceError while the stack runs: its services stay closed until they end, but one that crashes would
    come back open.
    """
    home.create()
    lock = home.try_lock()
    if lock is None:
        raise HeadraceError("the stack is running", "running services stay closed", DO_WITHOUT)
    try:
        forget_keys(home)
    finally:
        os.close(lock)
    note("no keys: from the next `up` on, everybody who reaches this machine's loopback address is let in")
    return 0


def _warnings(home: Home, client: str) -> list[str]:
    """What the operator should know: this is the first key, or the client has others. Revoked names are not kept."""
    if not has_keys(home):
        return [FIRST, FIRST_ORDERS]
    keys = read_keys(home) if home.api_keys.exists() else []
    if any(key.client == client for key in keys):
        return [
            f"{client} has other keys: with this one it is the same client, which reads all the orders of {client}."
        ]
    return []


# ── checks


def _check(client: str, orders_per_s: int | None) -> None:
    if not is_client_name(client):
        raise HeadraceError(f"{client[:80]!r} is not a client's name", f"a name is {CLIENT_RULE}", EXAMPLE)
    if client == OWN_CLIENT:
        raise HeadraceError(f"the client {client} is the stack itself", "the stack creates its own key", EXAMPLE)
    if orders_per_s is not None and not 1 <= orders_per_s <= MAX_ORDERS_PER_S:
        raise HeadraceError(
            f"{orders_per_s} is not a limit", f"a limit is from 1 to {MAX_ORDERS_PER_S} orders/s", EXAMPLE
        )


def _chosen(scopes: Sequence[str]) -> list[ScopeName]:
    """The scopes without duplicates, in their usual order."""
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise HeadraceError(f"there is no scope {unknown[0][:80]!r}", f"there are {', '.join(SCOPES)}", EXAMPLE)
    if not scopes:
        raise HeadraceError("a key needs a scope", f"there are {', '.join(SCOPES)}", EXAMPLE)
    return [scope for scope in SCOPES if scope in scopes]


def _not_revoked(key_id: str, keys: Sequence[ApiKey]) -> HeadraceError:
    if any(key.id == key_id for key in keys):
        fix = f"to do without keys: {DO_WITHOUT}"
        cause = "it is the last key: without any, the next start is open to everybody"
        return HeadraceError(f"{key_id} is the stack's own key", cause, fix)
    shown = parse_token(key_id)
    cause = f"that is a whole key; its id is {shown[0]}" if shown else "the id is the first column of the list"
    return HeadraceError(f"there is no key {'with that id' if shown else key_id[:80]}", cause, "./headrace keys list")


# ── output


def _as_dict(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "client": key.client,
        "scopes": list(key.scopes),
        "orders_per_s": key.orders_per_s,
        "created_at": key.created_at.isoformat(),
    }


def _table(keys: Sequence[ApiKey]) -> Table:
    table = Table("id", "client", "scopes", "orders/s", "created", box=None, padding=(0, 2, 0, 0))
    for key in keys:
        limit = "" if key.orders_per_s is None else str(key.orders_per_s)
        table.add_row(key.id, escape(key.client), " ".join(key.scopes), limit, f"{key.created_at:%Y-%m-%d %H:%M}Z")
    return table


# ── do the running APIs know it?


def _is_known(home: Home, token: str) -> bool:
    """Wait until the running APIs know the key, so that the next command may use it. False if they do not in time."""
    state = states.load(home)
    if not (state.is_running and state.phase == "ready"):
        return True  # they read it when they start
    urls = [state.parts[name].url for name in ("ingest_api", "product_api")]
    deadline = time.monotonic() + KNOWN_WITHIN_S
    while not all(_knows(url, token) for url in urls):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _knows(url: str, token: str) -> bool:
    """Whether an API accepts the key (403 is enough) and refuses requests without one. True if the API is down."""
    try:
        return get(f"{url}/health", 2)[0] == 401 and get(f"{url}/health", 2, token)[0] != 401
    except OSError:
        return True
