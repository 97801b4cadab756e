"""What the commands print."""

import io
import sys

import pytest

from stack.terminal import ask_yes, printable


def test_what_a_terminal_would_obey_is_told_instead() -> None:
    assert printable("Grüße \x1b[2J\r\n\t\x00\x7f\x9b\u202e\u200b\ud800") == (
        r"Grüße \x1b[2J\r\n\t\x00\x7f\x9b\u202e\u200b\ud800"
    )


class Terminal(io.StringIO):
    """Standard input of somebody who types this."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "answer"), [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("", False), ("yeah\n", False)]
)
def test_only_yes_is_yes(typed: str, answer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    asked = Terminal()
    monkeypatch.setattr(sys, "stderr", asked)
    assert ask_yes("Remove it?") is answer
    assert asked.getvalue() == "Remove it? [y/N] "


def test_without_a_terminal_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert ask_yes("Remove it?") is None
