"""A message that pamqp cannot decode ends no connection, and a refusal of the broker keeps its words."""

import struct

import pytest
from pamqp.commands import Basic, Connection
from pamqp.header import ContentHeader

from pipeline.broker import pamqp_patches


@pytest.fixture(autouse=True)
def _applied() -> None:
    pamqp_patches.apply()
    pamqp_patches.apply()


def test_p10_properties_that_cannot_be_read_are_none() -> None:
    every_property, no_table = 0xFFFC, b"\xff" * 9
    header = ContentHeader()
    header.unmarshal(struct.pack(">HxxQH", 60, 5, every_property) + no_table)
    assert (header.body_size, dict(header.properties)) == (5, dict(Basic.Properties()))


def test_properties_that_can_be_read_are_read() -> None:
    sent = ContentHeader(body_size=5, properties=Basic.Properties(headers={"schema": 1}))
    header = ContentHeader()
    header.unmarshal(sent.marshal())
    assert (header.body_size, header.properties.headers) == (5, {"schema": 1})


def test_a_header_that_is_cut_off_is_an_error() -> None:
    with pytest.raises(Exception, match=r"unpack|buffer"):
        ContentHeader().unmarshal(b"\x00" * 8)


def test_a_close_may_answer_an_open_and_is_listed_once() -> None:
    assert Connection.Open.valid_responses.count("Connection.Close") == 1
