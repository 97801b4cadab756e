"""The target of a request, as a client may write it."""

import pytest

from web.serving.strict_http import with_path


@pytest.mark.parametrize(
    ("target", "same"),
    [
        (b"http://x", b"http://x/"),
        (b"HTTPS://x:8080", b"HTTPS://x:8080/"),
        (b"http://x?limit=5&y=/z", b"http://x/?limit=5&y=/z"),
        (b"http://x#y", b"http://x/#y"),
        (b"http://[::1]:80", b"http://[::1]:80/"),
    ],
)
def test_a_uri_whose_path_is_empty_is_that_with_a_slash(target: bytes, same: bytes) -> None:
    assert with_path(target) == same


@pytest.mark.parametrize(
    "target",
    [b"/", b"/livez", b"/x?y=http://z", b"http://x/", b"http://x/livez", b"*", b"x:443", b"http:///livez", b""],
)
def test_any_other_target_stays_as_it_is(target: bytes) -> None:
    assert with_path(target) == target
