"""The stock formula in Python."""

import pytest

from proof.stock import expected_qty, is_balanced


@pytest.mark.parametrize(
    ("qty", "adjusted", "processed", "balanced"),
    [
        (7, 10, 3, True),
        (0, 10, 10, True),
        (0, 0, 0, True),
        (6, 10, 3, False),
        (8, 10, 3, False),
        (-1, 10, 11, False),
        (None, 0, 0, False),
        (None, 10, 3, False),
    ],
)
def test_p3_qty_is_what_adjustments_and_processed_orders_explain(
    qty: int | None, adjusted: int, processed: int, balanced: bool
) -> None:
    assert is_balanced(qty, adjusted, processed) is balanced
    assert expected_qty(10, 3) == 7
