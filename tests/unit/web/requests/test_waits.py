"""The query parameter `wait`."""

import pytest

from tests.support.data.problems import pointer_of
from web.problems.problems import Problem
from web.requests.waits import parse_wait


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[(None, 0), ("0", 0), ("30", 30), ("0.25", 0.25), ("05.5", 5.5)],
        # As languages write their floats.
        *[("16.096819904419092", 16.096819904419092), ("1e-05", 0.00001), ("1E1", 10), ("3.0e+1", 30), ("-0.0", 0)],
    ],
)
def test_a_wait_in_bounds_is_taken(text: str | None, seconds: float) -> None:
    assert parse_wait(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "+1",
        "31",
        "30.000001",
        "nan",
        "inf",
        "1e2",
        "-1e-9",
        "1e",
        "1e9999",
        ".5",
        "5.",
        "1,5",
        " 1",
        "1_0",
        "x",
        "\u0663",
        "9" * 5000,
        "1." + "0" * 99,
    ],
)
def test_any_other_wait_is_422(text: str) -> None:
    with pytest.raises(Problem) as raised:
        parse_wait(text)
    assert (raised.value.status, pointer_of(raised.value)) == (422, "?wait")
