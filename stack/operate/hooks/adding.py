"""`hooks add` and `hooks test`: both have a test event sent, and wait for the receiver's answer."""

from __future__ import annotations

import json
from dataclasses import dataclass

from proof.accounting_sql import Connection
from stack.errors import HeadraceError
from stack.home.directory import Home
from stack.operate.hooks import report, sql
from stack.operate.hooks.finding import find, offset_of, on_hooks
from stack.operate.hooks.report import named
from stack.operate.hooks.rules import EXAMPLE, Place, check_url, chosen_types, new_secret, place_of
from stack.operate.hooks.sql import Attempt, Hook, NewHook
from stack.operate.hooks.trial import await_test
from stack.terminal import note, printable, say, spinner


@dataclass(frozen=True, slots=True)
class Wanted:
    """A hook as the command line describes it. `after`, `since`: where it begins; neither: at the end of the log."""

    url: str
    types: str | None
    product_id: str | None
    batch: int
    after: str | None
    since: str | None


def add(home: Home, wanted: Wanted, *, as_json: bool) -> int:
    """Store a hook, print its secret on standard output, and wait for its test event."""
    check_url(wanted.url)
    types = chosen_types(wanted.types)
    place = place_of(wanted.after, wanted.since, f"{EXAMPLE} --since 2h") or Place()
    secret = new_secret()

    async def store(connection: Connection) -> Hook:
        if wanted.product_id and not await sql.has_product(connection, wanted.product_id):
            cause = "no product has or had this id, so no event would be of it"
            raise HeadraceError(f"there is no product {wanted.product_id}", cause, "correct --product, or leave it out")
        offset = await offset_of(connection, place)
        new = NewHook(wanted.url, types, wanted.product_id, wanted.batch, offset, secret)
        return await find(connection, await sql.add_hook(connection, new))

    hook = on_hooks(home, store)
    if not as_json:
        print(secret, flush=True)
        _tell_added(hook)
    attempt = None
    try:
        with spinner("waiting for the test event"):
            attempt = on_hooks(home, lambda connection: await_test(connection, hook.id, 0))
    finally:  # nobody can ask for the secret again, whatever ended the wait
        if as_json:
            test = report.attempt_as_dict(attempt) if attempt else None
            print(json.dumps({**report.as_dict(hook), "secret": secret, "test": test}), flush=True)
    if not as_json:
        _tell_first_test(home, hook, attempt)
    return 0


def send_test(home: Home, prefix: str, *, as_json: bool) -> int:
    """Have a test event sent, and print the receiver's answer. Raises HeadraceError unless it is 2xx."""

    async def ask(connection: Connection) -> tuple[Hook, Attempt | None]:
        hook = await find(connection, prefix)
        last = await sql.want_test(connection, hook.id)
        attempt = await await_test(connection, hook.id, last)
        return await find(connection, hook.id), attempt

    with spinner("waiting for the test event"):
        hook, attempt = on_hooks(home, ask)
    if attempt is None:
        raise _not_sent(hook)
    if as_json:
        print(json.dumps(report.attempt_as_dict(attempt)))
    if not attempt.is_success:
        fix = f"./headrace hooks show {report.short(hook)}"
        raise HeadraceError(f"{printable(hook.url)} did not take a test event", printable(report.outcome(attempt)), fix)
    if not as_json:
        say(f"{named(hook)}: {report.outcome(attempt)}")
    return 0


# ── what is said


def _tell_added(hook: Hook) -> None:
    batch = "one event in a request" if hook.batch == 1 else f"up to {hook.batch} events in a request"
    what = ", ".join(hook.types) if hook.types else "all events"
    of_product = f" of the product {hook.product_id}" if hook.product_id else ""
    note(f"{named(hook)} gets {what}{of_product}, {batch}. Its secret is shown only now: only event_relay can read it.")
    if hook.behind:
        note(f"It begins with the past: up to {hook.behind:,} events.")


def _tell_first_test(home: Home, hook: Hook, attempt: Attempt | None) -> None:
    """Whatever became of the test, the hook stays: its receiver may start later."""
    if attempt is not None:
        note(f"Test event: {printable(report.outcome(attempt))}.")
        if not attempt.is_success:
            note("The hook stays, and events are tried until they are taken.")
        return
    error = _not_sent(on_hooks(home, lambda connection: find(connection, hook.id)))
    note(f"The hook stays, but {error.what}: {error.cause}. {error.fix}")


def _not_sent(hook: Hook) -> HeadraceError:
    if hook.is_held:
        cause = "event_relay has taken the hook and has not sent it yet"
        return HeadraceError("the test event has not been sent", cause, "./headrace logs event_relay")
    cause = "no event_relay runs, or none reaches this database; the next one that does sends it"
    return HeadraceError("the test event has not been sent", cause, "./headrace status")
