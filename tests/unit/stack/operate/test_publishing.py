"""What a command that publishes does to the process that it runs in."""

import contextlib

import structlog

from stack.operate import publishing


def test_what_a_command_wants_of_the_log_ends_with_the_last_of_those_that_overlap() -> None:
    """Three replays at once left the log at errors alone, for whoever came after, where the first ended first."""
    before = structlog.get_config()
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    first.enter_context(publishing._errors_to_standard_error)
    assert structlog.get_config()["wrapper_class"] is not before["wrapper_class"]
    second.enter_context(publishing._errors_to_standard_error)
    first.close()
    assert structlog.get_config()["wrapper_class"] is not before["wrapper_class"]
    second.close()
    assert structlog.get_config() == before
