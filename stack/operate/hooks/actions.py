"""What each of `./headrace hooks` does. Each returns the exit code 0, and raises HeadraceError."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from proof.accounting_sql import Connection
from stack.errors import HeadraceError
from stack.home.directory import Home
from stack.operate.hooks import report, sql
from stack.operate.hooks.finding import changed, find, offset_of, on_hooks
from stack.operate.hooks.report import named
from stack.operate.hooks.rules import EXAMPLE, REPLAY, check_reason, new_secret, place_of
from stack.operate.hooks.sql import Attempt, Hook
from stack.terminal import ask_yes, note, printable, say, show_table

_NO_REASON = "by an operator"
# event_relay takes a new hook within this time.
_TAKEN_WITHIN = timedelta(seconds=15)


def show_list(home: Home, *, as_json: bool) -> int:
    """Print all hooks, and what is wrong with those that are not well."""
    hooks = on_hooks(home, sql.list_hooks)
    if as_json:
        print(json.dumps([report.as_dict(it) for it in hooks]))
        return 0
    if not hooks:
        say("no hooks: event_relay sends to nobody's URL. To add one:")
        say(f"  {EXAMPLE}")
        return 0
    show_table(report.table(hooks))
    for line in report.troubles(hooks):
        say(printable(line))
    if left := report.unattended(hooks, datetime.now(UTC), _TAKEN_WITHIN):
        say(f"no event_relay sends to {', '.join(map(report.short, left))}: ./headrace status")
    return 0


def show_one(home: Home, prefix: str, *, limit: int, as_json: bool) -> int:
    """Print a hook's fields and its last attempts, the latest first."""

    async def ask(connection: Connection) -> tuple[Hook, list[sql.SecretDates], list[Attempt]]:
        hook = await find(connection, prefix)
        secrets = await sql.secrets_of(connection, hook.id)
        return hook, secrets, await sql.attempts_of(connection, hook.id, limit)

    hook, secrets, attempts = on_hooks(home, ask)
    if as_json:
        lists = {
            "secrets": [report.secret_as_dict(it) for it in secrets],
            "attempts": [report.attempt_as_dict(it) for it in attempts],
        }
        print(json.dumps({**report.as_dict(hook), **lists}))
        return 0
    for name, value in report.fields(hook, secrets).items():
        print(f"{name:<14}{printable(value)}")
    if attempts:
        say()
        show_table(report.attempts_table(attempts))
    return 0


def pause(home: Home, prefix: str, why: str | None, *, as_json: bool) -> int:
    """Send nothing to a hook until `resume`."""
    reason = _NO_REASON if why is None else check_reason(why)
    hook = changed(home, prefix, lambda connection, it: sql.pause_hook(connection, it.id, reason))
    if as_json:
        return _print(hook)
    say(f"paused {named(hook)}; nothing is lost: ./headrace hooks resume {report.short(hook)}")
    return 0


def resume(home: Home, prefix: str, *, as_json: bool) -> int:
    """Send to a paused hook again, from where it stopped."""
    hook = changed(home, prefix, lambda connection, it: sql.resume_hook(connection, it.id))
    if as_json:
        return _print(hook)
    say(f"resumed {named(hook)}; events behind: {report.behind(hook)}")
    return 0


def replay(home: Home, prefix: str, after: str | None, since: str | None, *, as_json: bool) -> int:
    """Move a hook to a place in the log, and print how many events come after it."""
    place = place_of(after, since, REPLAY)
    if place is None:
        cause = "neither --after nor --since is given"
        raise HeadraceError("nothing says from where to replay", cause, REPLAY)
    moves: list[tuple[int, int]] = []

    async def move(connection: Connection, hook: Hook) -> None:
        offset = await offset_of(connection, place)
        moves.append((await sql.move_hook(connection, hook.id, offset), offset))

    hook = changed(home, prefix, move)
    ((before, offset),) = moves
    again, skipped = max(0, before - offset), max(0, offset - before)
    if as_json:
        print(json.dumps({**report.as_dict(hook), "events_again": again, "events_skipped": skipped}))
        return 0
    say(f"{named(hook)} goes on at {report.fields(hook, [])['cursor']}")
    say(_moved(hook, again, skipped))
    if hook.pause_reason is not None:
        say(f"it is paused: ./headrace hooks resume {report.short(hook)}")
    return 0


def rotate(home: Home, prefix: str, *, as_json: bool) -> int:
    """Print a new secret on standard output. The old one signs as well, for a day."""
    secret = new_secret()
    ends: list[datetime] = []

    async def store(connection: Connection, hook: Hook) -> None:
        ends.append(await sql.rotate_secret(connection, hook.id, secret))

    hook = changed(home, prefix, store)
    if as_json:
        print(json.dumps({**report.as_dict(hook), "secret": secret, "old_secret_signs_until": report.iso(ends[0])}))
        return 0
    print(secret, flush=True)
    note(f"the new secret of {named(hook)}. It is shown only now: only event_relay can read it.")
    note(f"Until {report.second(ends[0])} the old secret signs as well: give the receiver the new one before that.")
    return 0


def remove(home: Home, prefix: str, *, is_sure: bool, as_json: bool) -> int:
    """Delete a hook with its secrets and its attempts, once the operator has said yes."""
    if not is_sure:
        hook = on_hooks(home, lambda connection: find(connection, prefix))
        _make_sure(hook)
        prefix = hook.id
    removed: list[Hook] = []

    async def delete(connection: Connection) -> None:
        removed.append(await find(connection, prefix))
        await sql.remove_hook(connection, removed[0].id)

    on_hooks(home, delete)
    if as_json:
        return _print(removed[0])
    say(f"removed {named(removed[0])}, with its secrets and its attempts")
    return 0


# ── what is said


def _moved(hook: Hook, again: int, skipped: int) -> str:
    if skipped:
        return f"skipped: {skipped:,} events that it has not been told of"
    at_most = "at most " if hook.types or hook.product_id else ""
    return f"sent again: {at_most}{again:,} events"


def _make_sure(hook: Hook) -> None:
    """Raise HeadraceError unless the operator says yes."""
    fix = f"./headrace hooks remove {report.short(hook)} --yes, or only for a while: ./headrace hooks pause"
    answer = ask_yes(f"Remove {named(hook)}? Its secret and its place in the log are lost.")
    if answer is None:
        raise HeadraceError("nobody can be asked", "removing cannot be undone, and this is no terminal", fix)
    if not answer:
        raise HeadraceError("nothing was removed", "you did not answer yes", fix)


def _print(hook: Hook) -> int:
    print(json.dumps(report.as_dict(hook)))
    return 0
