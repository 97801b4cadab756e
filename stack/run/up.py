"""`up`: installs what is missing, starts the stack, shows it, then stays in the foreground or detaches."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

from stack.errors import HeadraceError
from stack.home import state as states
from stack.home.directory import Home
from stack.home.environment import wanted_ports
from stack.home.key_file import has_keys, own_token
from stack.home.state import StackState
from stack.run.table import EXAMPLE_QUANTITY, print_next, print_table
from stack.servers.install import ensure_servers, missing_servers
from stack.servers.rabbitmq import UI_VARIABLE
from stack.services.seeds import PRODUCTS, products
from stack.supervisor.launch import Busy, Launched, launch
from stack.supervisor.progress import follow
from stack.terminal import say, spinner

OTHER_TIMEOUT_S = 300
POLL_S = 0.1
# A new supervisor writes its state file within a second of the keeper's lock; a busy machine takes longer.
FIRST_STATE_S = 10


def up(home: Home, *, detach: bool) -> int:
    """Start the stack. Returns the exit code: 0 once ready and detached, or stopped; 130 if interrupted before."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    while True:
        if _is_up(home):
            say("headrace is running already")
            if os.environ.get(UI_VARIABLE) and not states.load(home).management_url:
                say("without RabbitMQ's management UI; with it: ./headrace down, then: ./headrace up --ui")
            show(home)
            return 0
        wanted_ports()  # before anything is installed
        ensure_servers(home, missing_servers())
        try:
            return _start(home, detach=detach)
        except Busy:
            _wait_for_other(home)


def _is_up(home: Home) -> bool:
    state = states.load(home)
    return state.is_running and state.phase == "ready"


def _start(home: Home, *, detach: bool) -> int:
    since = time.monotonic()
    launched = launch("up", home)
    try:
        if follow(launched, until="ready")["event"] == "stopped":
            launched.close()
            raise HeadraceError(
                "stopped before it was ready", "`headrace down` or a signal stopped it", "./headrace up"
            )
        say(f"ready in {time.monotonic() - since:.1f} s")
        show(home)
        if detach:
            launched.detach()
            say("stop       ./headrace down")
            return 0
        return _stay(launched)
    except KeyboardInterrupt:
        _stop(launched)
        return 130


def _stay(launched: Launched) -> int:
    say("\nCtrl-C stops everything")
    try:
        for event in launched.events():
            if event["event"] == "stopped":
                break
    except KeyboardInterrupt:
        _stop(launched)
    else:
        launched.close()
        say("stopped by `headrace down`")
    return 0


def _stop(launched: Launched) -> None:
    """Stop gracefully. A second Ctrl-C kills; accepted orders are safe either way."""
    say("\nstopping (Ctrl-C again: kill)")
    since = time.monotonic()
    launched.stop()
    try:
        stopped = follow(launched, until="stopped")
        launched.close()
        codes = ", ".join(f"{name} {code}" for name, code in stopped["services"].items())
        say(f"stopped in {time.monotonic() - since:.1f} s" + (f" (exit codes: {codes})" if codes else ""))
    except (KeyboardInterrupt, Busy):
        kill_supervisor(launched.home)
        launched.close()
        say("killed")


def kill_supervisor(home: Home) -> None:
    """Kill the supervisor. The keeper then ends every process that is left."""
    if pid := supervisor_or_keeper(home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def supervisor_or_keeper(home: Home) -> int | None:
    """The pid to signal. The keeper passes SIGTERM on; if the keeper dies, the kernel signals the supervisor."""
    state = states.load(home)
    return state.supervisor[0] if state.is_running else home.holder()


def _wait_for_other(home: Home) -> None:
    """Wait until the other command's stack is ready or gone. Raises HeadraceError if that takes too long."""
    say("waiting for another `headrace up` or `down` on this state directory")
    deadline = time.monotonic() + OTHER_TIMEOUT_S
    known_until = time.monotonic() + FIRST_STATE_S
    with spinner("waiting"):
        while home.is_held() and not _is_up(home):
            if not _is_unknown(home):
                known_until = time.monotonic() + FIRST_STATE_S
            if time.monotonic() > known_until:
                raise HeadraceError(
                    f"a stack runs that {home.state} does not mention",
                    "the file is damaged, or was removed",
                    "./headrace down, then: ./headrace up",
                )
            if time.monotonic() > deadline:
                raise HeadraceError(
                    "another headrace command holds the state directory",
                    f"it has not finished within {OTHER_TIMEOUT_S} s",
                    "./headrace down, then: ./headrace up",
                    str(home.log("supervisor")),
                )
            time.sleep(POLL_S)


def _is_unknown(home: Home) -> bool:
    """Whether a keeper runs that the state file does not name."""
    keeper = home.holder()
    return keeper is not None and states.load(home).keeper[0] != keeper


def show(home: Home) -> None:
    state = states.load(home)
    say()
    print_table(state, str(home.logs))
    say()
    say("passwords  ./headrace status --json")
    print_next(state, demo_product(state, home), needs_key=has_keys(home))


def demo_product(state: StackState, home: Home | None) -> str | None:
    """The id of a product for the example order: one in stock, a demo product if possible; None if there is none.

    `home`: the directory whose API key to use; None: ask without a key.
    """
    with contextlib.suppress(HeadraceError, OSError, KeyError):
        token = own_token(home) if home else None
        return choose_product(products(state.parts["product_api"].url, token))
    return None


def choose_product(found: list[dict[str, Any]]) -> str | None:
    names = [product.name for product in PRODUCTS]
    in_stock = [product for product in found if product["qty"] >= EXAMPLE_QUANTITY]
    in_stock.sort(key=lambda product: (product["name"] not in names, -product["qty"]))
    return str(in_stock[0]["id"]) if in_stock else None
