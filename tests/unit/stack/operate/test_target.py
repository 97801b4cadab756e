"""Which database and broker a command works on: never one system's orders and another one's queues."""

from pathlib import Path
from typing import Any

import pytest

from stack.errors import HeadraceError
from stack.home.directory import Home
from stack.operate import target
from stack.operate.target import Target, choose_target

OURS, THEIRS = "postgresql://u@ours/d", "postgresql://u@theirs/d"
BROKER, THEIR_BROKER = "amqp://u@ours/v", "amqp://u@theirs/v"


@pytest.fixture
def choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """choose_target, beside a stack that runs on OURS and BROKER."""
    monkeypatch.setattr(target, "running_urls", lambda _: {"database": OURS, "broker": BROKER})
    for name in ("DATABASE_URL", "AMQP_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)

    def choose(database: str | None = None, broker: str | None = None, **environment: str) -> Target:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return choose_target(Home(tmp_path), database, broker)

    return choose


def test_without_a_word_it_is_the_running_stack(choose: Any) -> None:
    assert choose() == Target(OURS, BROKER)


def test_a_broker_never_comes_from_another_place_than_the_database(choose: Any) -> None:
    assert choose(THEIRS) == Target(THEIRS, None)
    assert choose(THEIRS, THEIR_BROKER) == Target(THEIRS, THEIR_BROKER)
    assert choose(DATABASE_URL=THEIRS) == Target(THEIRS, None)
    assert choose(AMQP_URL=THEIR_BROKER) == Target(THEIRS, THEIR_BROKER), "both are set now"
    assert choose(OURS) == Target(OURS, None)


def test_a_stack_on_a_database_of_the_environment_is_that_stack(choose: Any) -> None:
    assert choose(DATABASE_URL=OURS) == Target(OURS, BROKER)


def test_an_address_that_is_empty_is_not_that_of_the_running_stack(choose: Any) -> None:
    """As of a variable that is not set."""
    with pytest.raises(HeadraceError, match="--database-url"):
        choose("")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@h/d",
        "postgresql://u:@h/d",
        "postgresql://h/d?user=u&password=p",
        "postgresql://h/d?x=1&PASSWD=p",
    ],
)
def test_an_option_with_a_password_is_refused_without_saying_it(choose: Any, url: str) -> None:
    """Everybody on the machine can read the options of a command."""
    with pytest.raises(HeadraceError, match="--database-url with a password") as told:
        choose(url)
    assert "DATABASE_URL" in told.value.fix
    assert "p@" not in " ".join(told.value.lines())
    with pytest.raises(HeadraceError, match="--amqp-url with a password"):
        choose("postgresql://h/d", "amqp://h/v,amqp://u:p@g/v")


def test_a_broker_alone_is_not_enough(choose: Any) -> None:
    assert choose(AMQP_URL=THEIR_BROKER) == Target(OURS, None), "it is not the stack's"
    with pytest.raises(HeadraceError, match="broker of this database is unknown"):
        choose().known_broker()
    with pytest.raises(HeadraceError, match="--amqp-url without --database-url"):
        choose(None, THEIR_BROKER)
