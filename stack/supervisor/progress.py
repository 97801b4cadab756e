"""Prints the steps of a stack that starts or stops, from the supervisor's events."""

from __future__ import annotations

from rich.markup import escape

from stack.supervisor.launch import Event, Launched
from stack.terminal import spinner, step_done


def follow(launched: Launched, until: str) -> Event:
    """Print steps as they come. Returns the event named `until`. Raises as Launched.events does."""
    doing: dict[str, str] = {}
    with spinner("starting" if until == "ready" else "stopping") as status:
        for event in launched.events():
            if event["event"] == "begin":
                doing[event["key"]] = event["text"]
            elif event["event"] == "done":
                doing.pop(event["key"], None)
                step_done(event["text"], event["seconds"])
            elif event["event"] in (until, "stopped"):
                return event
            if status and doing:
                status.update(escape(", ".join(doing.values())))
    raise AssertionError("events end with an exception or `stopped`")
