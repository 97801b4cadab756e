"""Errors in words: one line, no address of an object, and no longer than a log line should be."""

import pytest

from pipeline.process.error_text import describe, one_line


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "unable to perform operation on <TCPTransport closed=True reading=False 0x5581c3c0>; the handler is closed",
            "unable to perform operation on TCPTransport; the handler is closed",
        ),
        ('<aiormq.channel.Channel: "1" at 0x7f2a3c1d5e50> closed', "Channel closed"),
        ("<PoolConnectionProxy <asyncpg.connection.Connection object at 0x7f12ab34cd56> 0x7f12ab34ce00>", "Connection"),
        ("two\nlines,\r\n\tand a tab", "two lines, and a tab"),
        ("orders.accepted has 0x10 messages", "orders.accepted has 0x10 messages"),
        ("a < b and c > d", "a < b and c > d"),
    ],
)
def test_an_error_is_one_line_without_the_addresses_of_objects(said: str, told: str) -> None:
    assert told in one_line(said)
    assert "0x7f" not in one_line(said)
    assert "0x55" not in one_line(said)


def test_an_error_without_words_is_its_type() -> None:
    assert describe(ConnectionRefusedError()) == "ConnectionRefusedError"
    assert describe(TimeoutError("no answer")) == "TimeoutError: no answer"


def test_an_error_of_any_length_is_a_line_that_can_be_read() -> None:
    assert len(one_line("x" * 100_000)) == 501
