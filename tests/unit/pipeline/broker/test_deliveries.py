"""What a message's headers say."""

from typing import Any
from unittest.mock import Mock

import pytest
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from pipeline.broker.deliveries import Delivery, delivery_of


def read(headers: dict[str, Any] | None, *, redelivered: bool = False) -> Delivery:
    frame = Basic.Deliver("consumer", 7, redelivered, "exchange", "key")
    header = ContentHeader(properties=Basic.Properties(headers=headers))
    return delivery_of(DeliveredMessage(delivery=frame, header=header, body=b"[]", channel=Mock()))


def test_a_delivery_says_what_its_headers_say() -> None:
    assert read({"schema": 1, "orders": 500}, redelivered=True) == Delivery(7, b"[]", 1, 500, redelivered=True)


@pytest.mark.parametrize("headers", [None, {}, {"orders": 0}, {"orders": -5}, {"orders": "many"}, {"orders": None}])
def test_p10_headers_that_do_not_help_count_as_one_order(headers: dict[str, Any] | None) -> None:
    delivery = read(headers)
    assert (delivery.orders, delivery.schema) == (1, None)
