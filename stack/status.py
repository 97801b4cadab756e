"""`status`, and the addresses of what runs for other commands."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from stack import state as states
from stack.console import out, say
from stack.environment import named_stack
from stack.errors import HeadraceError
from stack.home import Home
from stack.state import SERVICES, StackState
from stack.table import as_dict, print_table
from stack.up import is_ready

NOT_RUNNING = 3


def status(home: Home, *, as_json: bool) -> int:
    """Print it. Returns 0 when all is ready, 1 when something is not, NOT_RUNNING when nothing runs."""
    state = states.load(home)
    is_running = state.is_running
    if is_running:
        _ask_services(state)
    if as_json:
        out.print_json(json.dumps(as_dict(state, is_running=is_running)))
    elif is_running:
        say(f"headrace is {'running' if state.phase == 'ready' else state.phase}")
        print_table(state, str(home.logs))
    else:
        say("headrace is not running; start it: ./headrace up -d")
    if not is_running:
        return NOT_RUNNING
    return 0 if _all_ready(state) else 1


def _ask_services(state: StackState) -> None:
    """The supervisor knows which processes live; only they themselves know whether they can work now."""
    parts = [state.parts[name] for name in SERVICES if name in state.parts]
    with ThreadPoolExecutor(len(SERVICES)) as pool:
        for part, ready in zip(parts, pool.map(lambda part: is_ready(part.url), parts), strict=True):
            if part.state == "ready" and not ready:
                part.state = "not ready"


def _all_ready(state: StackState) -> bool:
    return state.phase == "ready" and all(part.state in ("ready", "external") for part in state.parts.values())


def running_urls(home: Home) -> dict[str, str]:
    """`ingest_api`, `product_api`, `database` and `broker`: of the stack that the environment names, or of the one that
    `up` started. Raises HeadraceError when that does not run.
    """
    if named := named_stack():
        return named
    state = states.load(home)
    if not (state.is_running and state.phase == "ready"):
        raise HeadraceError("headrace is not running", "`up` has not been run, or has not finished", "./headrace up -d")
    urls = {name: state.parts[name].url for name in ("ingest_api", "product_api")}
    servers = {"database": state.parts["postgres"].url, "broker": state.parts["rabbitmq"].url}
    return {**urls, **servers, **state.operator}
