"""Ports shift when they are taken, by a stranger or by another stack that has not bound them yet."""

import os
import re
import socket
from collections.abc import Iterator

import pytest

from stack.process.ports import LOOPBACK, Ports, is_free
from stack.process.proc import listener_of


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server((LOOPBACK, 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_shifts(taken: int) -> None:
    assert not is_free(taken)
    assert Ports().choose("redis", taken) > taken


def test_a_listener_on_all_addresses_takes_the_port_too() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert not is_free(server.getsockname()[1])


def test_the_remembered_port_comes_first(taken: int) -> None:
    assert Ports({"redis": 29_871}).choose("redis", 29_870) == 29_871
    assert Ports({"redis": taken}).choose("redis", 29_880) == 29_880


def test_a_port_that_people_type_comes_before_the_remembered_one(taken: int) -> None:
    ports = Ports({"ingest_api": 29_941})
    assert ports.choose_near("ingest_api", 29_940) == 29_940
    assert ports.why("ingest_api") == ""


def test_whoever_has_the_wanted_port_is_named_and_the_remembered_one_is_next(taken: int) -> None:
    ports = Ports({"ingest_api": 29_951})
    assert ports.choose_near("ingest_api", taken) == 29_951
    assert re.fullmatch(rf" \({taken} is taken by .+, pid {os.getpid()}\)", ports.why("ingest_api"))


def test_two_stacks_never_choose_the_same_port() -> None:
    first, second = Ports(), Ports()
    assert first.choose("redis", 29_890) != second.choose("redis", 29_890)


def test_names_of_one_stack_never_share_a_port() -> None:
    ports = Ports({"a": 29_900, "b": 29_900})
    assert ports.choose("a", 29_900) != ports.choose("b", 29_900)


def test_what_this_run_did_not_need_is_remembered_all_the_same() -> None:
    ports = Ports({"rabbitmq": 1})
    ports.choose("redis", 29_910)
    assert ports.remembered == {"rabbitmq": 1, "redis": 29_910}


def test_who_listens_is_named(taken: int) -> None:
    holder = listener_of(taken)
    assert holder
    assert "pid" in holder
