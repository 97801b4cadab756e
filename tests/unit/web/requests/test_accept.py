"""HTML and streams are for those who ask for them: a program that takes anything gets JSON."""

import pytest

from web.requests.accept import prefers_event_stream, prefers_html


@pytest.mark.parametrize(
    "accept",
    [
        ["text/html"],
        ["text/*"],
        ["TEXT/HTML ; charset=utf-8 ; Q=0.9, */*;q=0.8"],
        ["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
        ["application/json;q=0.1", "text/html"],
        ["*/*, application/json;q=0"],
    ],
)
def test_a_client_that_likes_html_better_gets_it(accept: list[str]) -> None:
    assert prefers_html(accept)


@pytest.mark.parametrize(
    "accept",
    [
        [],
        [""],
        ["*/*"],
        ["application/json"],
        ["text/html, application/json"],
        ["text/html;q=0"],
        ["text/html;q=0, */*"],
        ["text/html;q=nan"],
        ["text/html;q=2"],
        ["text/html;q="],
        [",;,=;q"],
    ],
)
def test_any_other_gets_json(accept: list[str]) -> None:
    assert not prefers_html(accept)


@pytest.mark.parametrize(
    "accept",
    [
        ["text/event-stream"],
        ["Text/Event-Stream; charset=utf-8"],
        ["text/event-stream, */*"],
        ["text/event-stream", "application/json;q=0.9"],
    ],
)
def test_a_client_that_asks_for_a_stream_gets_it(accept: list[str]) -> None:
    assert prefers_event_stream(accept)


@pytest.mark.parametrize(
    "accept",
    [
        [],
        ["*/*"],
        ["text/*"],
        ["text/html,application/xhtml+xml,*/*;q=0.8"],
        ["text/event-stream, application/json"],
        ["text/event-stream;q=0.5, */*"],
        ["text/event-stream;q=0"],
    ],
)
def test_any_other_gets_no_stream(accept: list[str]) -> None:
    assert not prefers_event_stream(accept)
