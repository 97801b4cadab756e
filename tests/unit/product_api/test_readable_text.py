"""Which names of products are taken: by what a person sees of them."""

import json
import sys
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from product_api.requests import MAX_NAME_CHARACTERS, decode_patch, decode_product
from tests.support.data.problems import pointer_of
from web.problems.problems import Problem
from web.requests.readable_text import breaks_text, has_visible, is_visible, with_escapes

_DECODERS: dict[str, Callable[[bytes], object]] = {"product": decode_product, "patch": decode_patch}


def _is_taken(name: str, decode: Callable[[bytes], object] = decode_product) -> bool:
    """Whether the name is not what the product is refused for."""
    body = json.dumps({"name": name, "price": 1, "qty": 1}).encode()
    try:
        decode(body)
    except Problem as problem:
        return (problem.status, pointer_of(problem)) != (422, "/name")
    return True


def _named(*names: str) -> list[object]:
    """Parameters with the names of their characters as ids."""
    return [pytest.param(it, id="+".join(f"{ord(character):04X}" for character in it)) for it in names]


# ── what nobody sees

_INVISIBLE = _named(
    *("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u180e", "\u2063", "\u061c", "\u200e\u200f"),
    *("\u3000", "\u00a0", "\u2007 \u2009", "\u1680"),
    *("\u3164", "\u115f\u1160", "\uffa0", "\u2800", "\u2800\u3164 \u2800", "\U0001d159", "\ufffc", "\U00013441"),
    *(
        "\u034f",
        "\ufe0f",
        "\U000e0100",
        "\u180b",
        "\u17b4",
        "\u0301",
        "\u20e3",
        "\u093e",
        " \u0301",
        "\u200b\ufe0f\u20e3",
    ),
    *("\U000e0067\U000e0062\U000e007f", "\U000e0001", "\U000e0fff", "\ufff9\ufffb", "\U0001d173", "\u2065"),
    *("\ue000", "\uf8ff", "\U000f0000", "\u0378", "\u2066\u2069", "\u202a\u202c"),
)


@pytest.mark.parametrize("decoder", _DECODERS)
@pytest.mark.parametrize("name", _INVISIBLE)
def test_a_name_of_which_nobody_sees_anything_is_refused(name: str, decoder: str) -> None:
    assert not _is_taken(name, _DECODERS[decoder])
    assert not _is_taken(f" {name} {name} ", _DECODERS[decoder])


_CHARACTERS = st.characters(exclude_categories=["Cs"])
_UNSEEN = st.characters(categories=["Cc", "Cf", "Zs", "Zl", "Zp", "Co", "Mn", "Mc", "Me"]) | st.sampled_from(
    "\u115f\u1160\u3164\uffa0\u2800\u034f\ufe0f\ufe0e\U000e0061\U000e01ef"
)


@given(st.text(_UNSEEN, max_size=MAX_NAME_CHARACTERS))
def test_whatever_is_put_together_from_what_is_not_seen_is_refused(name: str) -> None:
    assert not _is_taken(name)


def test_every_character_of_every_invisible_category_is_refused_by_itself() -> None:
    unseen = {"Cc", "Cf", "Cs", "Co", "Zs", "Zl", "Zp", "Mn", "Mc", "Me"}
    for character in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.category(character) in unseen:
            assert not is_visible(character), f"U+{ord(character):04X}"


# ── what people write

_WELCOME = _named(
    *("Laptop Demo", "7", "#", "…", "™", "½", "ǅ"),
    *("é", "e\u0301", "A\u030a\u0323ngstro\u0308m", "Z\u0351\u036b"),
    *(
        "👩\u200d💻",
        "👨\u200d👩\u200d👧\u200d👦",
        "❤\ufe0f",
        "👍🏽",
        "🇩🇪",
        "1\ufe0f\u20e3",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    ),
    # Of Unicode 15 to 17: unassigned to an older Python, and the name is the same name on every Python.
    *("\U0001fae8", "\U0001f6d8", "\U0001fae9", "\U0001faea", "\U0002ebf0", "\U000323b0"),
    *("漢字", "ひらがな", "가", "\u1112\u1161\u11ab", "ไทย", "עברית", "العربية"),
    *("क्\u200dष", "ශ්\u200dරී", "می\u200cخواهم", "קפה \u200f(C++)\u200e", "שלום\u200f!", "العربية\u061c 5"),
    *(
        "\u2067עברית\u2069 Laptop",
        "\u2068\u2066a\u2069\u2069 b",
        "\u202bעברית\u202c Laptop",
        "\u2067\u202aa\u202c\u2069",
    ),
    *("a\u00adb", "\ufefftext", "zero\u200bwidth", "Apple \uf8ff", "𝄞", "\u2800x"),
)


@pytest.mark.parametrize("decoder", _DECODERS)
@pytest.mark.parametrize("name", _WELCOME)
def test_a_name_that_people_read_is_taken_as_it_is(name: str, decoder: str) -> None:
    assert _is_taken(name, _DECODERS[decoder])
    assert not breaks_text(name)


@given(
    st.text(_CHARACTERS, max_size=20), st.characters(categories=["L", "N", "P", "S"]), st.text(_CHARACTERS, max_size=20)
)
def test_one_visible_character_is_enough_unless_something_spoils_the_text(before: str, seen: str, after: str) -> None:
    name = before + seen + after
    assert _is_taken(name) == (has_visible(name) and not breaks_text(name.strip()))


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Mn", "Mc", "Me", "Zs"]), max_size=MAX_NAME_CHARACTERS))
def test_text_without_format_characters_spoils_nothing(text: str) -> None:
    assert not breaks_text(text)


# ── what spoils the text around it

_SPOILING = _named(
    *("a\u2028b", "a\u2029b", "a\nb", "a\x00b", "a\x85b", "a\x1b[31mb"),
    *("photo\u202egpj.exe", "a\u202db\u202c", "\u202eabc"),
    *(
        "a\u202a",
        "a\u202bb",
        "a\u2066b",
        "a\u2067b",
        "a\u2068",
        "a\u202c",
        "a\u2069b",
        "a\u2066b\u202c",
        "\u2067a\u202ab\u2069\u202c",
    ),
    *("a\ufffe", "a\uffff", "a\ufdd0", "a\U0001fffe", "a\U0010ffff"),
)


@pytest.mark.parametrize("decoder", _DECODERS)
@pytest.mark.parametrize("name", _SPOILING)
def test_a_name_that_would_spoil_the_text_around_it_is_refused(name: str, decoder: str) -> None:
    assert not _is_taken(name, _DECODERS[decoder])


@given(st.text(_CHARACTERS, max_size=10), st.text(_CHARACTERS, max_size=10))
def test_two_texts_that_spoil_nothing_spoil_nothing_side_by_side(one: str, other: str) -> None:
    """A direction that one leaves open would turn the other."""
    if not breaks_text(one) and not breaks_text(other):
        assert not breaks_text(one + other)


@pytest.mark.parametrize("name", ["\\ud800", "\\udc00", "a\\ud83d", "\\udc00\\ud83d"])
def test_half_of_a_surrogate_pair_is_no_json_that_all_readers_understand(name: str) -> None:
    with pytest.raises(Problem) as refused:
        decode_product(f'{{"name": "{name}", "price": 1, "qty": 1}}'.encode())
    assert refused.value.status == 400
    assert breaks_text("a\ud800")


# ── what the answer says


def test_the_answer_shows_what_cannot_be_seen() -> None:
    with pytest.raises(Problem) as refused:
        decode_product('{"name": "\u200b\u3164", "price": 1, "qty": 1}'.encode())
    (error,) = refused.value.errors
    assert "can be seen" in error.detail
    assert '"\\u200b\\u3164"' in error.detail


@given(st.text(_CHARACTERS))
def test_escapes_are_json_of_the_same_text(text: str) -> None:
    shown = with_escapes(text)
    assert all(it == " " or is_visible(it) for it in shown)
    if not set(text) & set('"\\'):
        assert json.loads(f'"{shown}"') == text
