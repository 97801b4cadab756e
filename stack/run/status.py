"""`status`: prints what runs. Other commands take the addresses of the running stack from here."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from stack.errors import HeadraceError
from stack.home import state as states
from stack.home.directory import Home
from stack.home.environment import named_stack
from stack.home.key_file import own_token
from stack.home.state import SERVICES, StackState
from stack.run import backlog
from stack.run.backlog import Waiting
from stack.run.table import as_dict, print_table
from stack.terminal import out, say

NOT_RUNNING = 3


def status(home: Home, *, as_json: bool) -> int:
    """Print the status. Returns 0 if all is ready, 1 if something is not, NOT_RUNNING if nothing runs."""
    state = states.load(home)
    is_running = state.is_running
    waiting = _ask_services(home, state) if is_running else None
    if as_json:
        out.print_json(json.dumps(as_dict(state, is_running=is_running) | {"waiting": backlog.as_json(waiting)}))
    elif is_running:
        say(f"headrace is {'running' if state.phase == 'ready' else state.phase}")
        print_table(state, str(home.logs))
        print_troubles(state, waiting)
    else:
        say("headrace is not running; start it: ./headrace up -d")
    if not is_running:
        return NOT_RUNNING
    return 0 if _all_ready(state) else 1


def _ask_services(home: Home, state: StackState) -> list[Waiting] | None:
    """Set `why` of each service that is not ready. Returns the backlog; None if ingest_api does not know it.

    The supervisor knows which processes live. Only a service knows whether it can work.
    """
    token = _token(home)
    parts = [state.parts[name] for name in SERVICES if name in state.parts]
    with ThreadPoolExecutor(len(SERVICES) + 1) as pool:
        ingest = state.parts.get("ingest_api")
        waiting = pool.submit(backlog.waiting_at, ingest.asked_at, token) if ingest and ingest.url else None
        reasons = pool.map(lambda part: backlog.why_not_ready(part.asked_at, token), parts)
        for part, why in zip(parts, reasons, strict=True):
            part.why = why
            if part.state == "ready" and why:
                part.state = "not ready"
        return waiting.result() if waiting else None


def _token(home: Home) -> str | None:
    try:
        return own_token(home)
    except HeadraceError:
        return None  # the key file is broken, and the services report that


def print_troubles(state: StackState, waiting: list[Waiting] | None) -> None:
    """Print why services are not ready, and how many orders wait."""
    troubles = {name: part.why for name in SERVICES if (part := state.parts.get(name)) and part.why}
    for name, why in troubles.items():
        say(f"{name} is not ready: {why}")
    if waiting is None:
        say("the number of waiting orders is unknown: ingest_api does not report it")
    for it in waiting or ():
        if it.orders:
            say(f"{it.queue}: {backlog.sentence(it, troubles)}")


def _all_ready(state: StackState) -> bool:
    return state.phase == "ready" and all(part.state in ("ready", "external") for part in state.parts.values())


def running_urls(home: Home) -> dict[str, str]:
    """The URLs of `ingest_api`, `product_api`, `database` and `broker`.

    They are those that the environment names, else those of the stack that `up` started. Those include `health`, the
    address of ingest_api's own health listener. Raises HeadraceError if no stack runs.
    """
    if named := named_stack():
        return named
    state = states.load(home)
    if not (state.is_running and state.phase == "ready"):
        raise HeadraceError("headrace is not running", "`up` has not been run, or has not finished", "./headrace up -d")
    urls = {name: state.parts[name].url for name in ("ingest_api", "product_api")}
    servers = {"database": state.parts["postgres"].url, "broker": state.parts["rabbitmq"].url}
    return {**urls, **servers, **state.operator, "health": state.parts["ingest_api"].asked_at}
