"""What holds for strong and for weak ETags. Versions of products: test_product_requests.py."""

import re

import pytest

from web import http_fields
from web.preconditions import client_has, if_match_holds
from web.problems import Problem


@pytest.mark.parametrize("etag", ['"a"', 'W/"a"'])
@pytest.mark.parametrize("value", ['"a"', 'W/"a"', '"b", W/"a"', "*"])
def test_to_have_it_a_weak_tag_will_do_on_either_side(etag: str, value: str) -> None:
    assert client_has([value], etag)


def test_to_change_it_both_are_strong() -> None:
    assert if_match_holds(['W/"a", "a"'], '"a"')
    assert not if_match_holds(['W/"a"'], '"a"')
    assert not if_match_holds(['W/"a", "a"'], 'W/"a"')


@pytest.mark.parametrize("value", ['"a"', 'W/"a"', '"a", "b"', '"\xe4"', "*"])
def test_what_the_documents_allow_is_understood(value: str) -> None:
    (meta,) = http_fields.IF_MATCH.type.__metadata__
    assert re.search(meta.pattern, value)
    if_match_holds([value], '"a"')


@pytest.mark.parametrize("value", ["a", '"a" "b"', 'w/"a"', '"a"b"', '*, "a"'])
def test_what_they_do_not_is_malformed(value: str) -> None:
    (meta,) = http_fields.IF_MATCH.type.__metadata__
    assert not re.search(meta.pattern, value)
    with pytest.raises(Problem) as refused:
        if_match_holds([value], '"a"')
    assert refused.value.status == 400
