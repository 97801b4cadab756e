"""A body is parsed once if it is right, whatever its members and its texts; a member that comes twice never passes."""

import json
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, UnsetType

from product_api.requests import decode_patch, decode_product
from tests.support.data.texts import TEXTS
from web.problems.problems import Problem
from web.requests import json_body
from web.requests.json_body import JsonBody, Rule

Text = Annotated[str, Meta(max_length=200)]


class Request(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    product: Text
    quantity: int
    note: Text | None = None
    gift: Text | UnsetType = UNSET


ANY = Rule("a string", lambda _: None)
BODY = JsonBody(Request, product=ANY, quantity=ANY, note=ANY, gift=ANY)


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any second, slow parse fails the test."""

    def again(_: bytes) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(json_body, "check_strictly", again)


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize("ensure_ascii", [True, False], ids=["ASCII", "UTF-8"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_right_body_is_parsed_once_whatever_its_texts_hold(text: str, *, ensure_ascii: bool) -> None:
    for members in ({}, {"note": text}, {"gift": text}, {"note": None, "gift": text}):
        body = json.dumps({"product": text, "quantity": 2, **members}, ensure_ascii=ensure_ascii).encode()
        assert BODY.decode(body) == Request(text, 2, **members)


@pytest.mark.usefixtures("once")
def test_a_right_product_is_parsed_once_and_so_is_a_patch() -> None:
    assert decode_product(b'{"name":"USB: C","price":"1.50","qty":3}').name == "USB: C"
    assert decode_patch(b'{"qty":3}').sets_qty
    assert decode_patch(b'{"name":"a\\\\\\"b: \\u003a"}').sets_qty is False


@pytest.mark.parametrize(
    "members",
    [
        '"quantity":2,"quantity":2',
        '"quantity":2,"note":"x","note":"y"',
        '"quantity":2,"note":"a:b","note":"x"',
        '"quantity":2,"note":"x","note":"a:b"',
        '"quantity":2,"note":"x","note":"\\u003a"',
        '"quantity":2,"note":"\\u003a","note":null',
        '"quantity":2,"note":"x","not\\u0065":"x"',
        '"quantity":2,"note":"\\"","note":":\\\\"',
        '"quantity":2,"note":"\\\\\\\\\\"","note" : "\\\\"',
        '"quantity":2,"note":null,"note":null',
    ],
)
def test_a_member_that_comes_twice_is_refused_whatever_is_beside_it(members: str) -> None:
    with pytest.raises(Problem) as refused:
        BODY.decode(f'{{"product":"p",{members}}}'.encode())
    assert (refused.value.status, refused.value.detail.partition(" comes ")[2]) == (
        400,
        "twice in one object. Send it once.",
    )


def test_what_is_unknown_is_told_what_is_known() -> None:
    with pytest.raises(Problem) as refused:
        BODY.decode(b'{"product":"p","quantity":1,"Note":"x"}')
    known = "The members here are product, quantity, note and gift."
    assert (refused.value.status, refused.value.detail) == (422, f'The member "Note" is unknown. {known}')


TEXT = st.text(st.sampled_from('":\\,{}n\u2028é'), max_size=6)
MEMBERS = st.one_of(
    st.tuples(st.sampled_from(["note", "gift"]), TEXT), st.tuples(st.just("product"), TEXT), st.just(("quantity", 1))
)


@given(st.lists(MEMBERS, max_size=5), st.booleans(), st.sampled_from([":", " : ", ":\n"]))
def test_a_body_is_accepted_exactly_if_each_member_comes_once(
    more: list[tuple[str, object]], ensure_ascii: bool, colon: str
) -> None:
    members = [("product", "p"), ("quantity", 1), *more]
    text = ",".join(f'"{name}"{colon}{json.dumps(value, ensure_ascii=ensure_ascii)}' for name, value in members)
    names = [name for name, _ in members]
    if len(names) == len(set(names)):
        assert BODY.decode(f"{{{text}}}".encode()) == Request(**dict(members))  # type: ignore[arg-type]
    else:
        with pytest.raises(Problem):
            BODY.decode(f"{{{text}}}".encode())
