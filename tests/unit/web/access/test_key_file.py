"""API keys' tokens, and the file that holds their hashes."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.contract.api_keys import (
    SCOPES,
    InvalidKeys,
    decode_keys,
    encode_keys,
    is_client_name,
    new_token,
    parse_token,
)
from tests.support.data.api_keys import key_of


def test_a_token_is_256_random_bits_that_the_file_does_not_hold() -> None:
    token = new_token()
    parts = parse_token(token)
    assert parts
    assert len(bytes.fromhex(parts[1])) == 32
    assert token.startswith(f"hr_{parts[0]}_")
    assert parts[1] not in encode_keys([key_of(token)])
    assert new_token() != token


@given(st.text() | st.from_regex(r"hr_[0-9a-f]{12}_[0-9a-f]{64}.?"))
def test_what_is_no_token_is_none(text: str) -> None:
    parts = parse_token(text)
    assert parts is None or f"hr_{parts[0]}_{parts[1]}" == text


def test_the_file_says_all_but_the_secret_and_is_read_as_it_was_written() -> None:
    keys = [key_of(new_token()), key_of(new_token(), "a.b-c_9", SCOPES, 100)]
    assert decode_keys(encode_keys(keys).encode()) == keys


GOOD = encode_keys([key_of("hr_0123456789ab_" + "0" * 64)])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{", ""),
        ('"shop"', '""'),
        ('"shop"', '"Shop"'),
        ('"shop"', '"shop\\n"'),
        ('"shop"', '"-shop"'),
        ('"shop"', '"s\\thop"'),
        ('"shop"', f'"{"s" * 65}"'),
        ("orders:write", "orders:all"),
        ('"orders:write"', ""),
        ("0123456789ab", "0123456789ax"),
        ('"client"', '"klient"'),
        ('"client"', '"more": 1, "client"'),
        ('"client"', '"orders_per_s": 0, "client"'),
        ('"client"', '"orders_per_s": 1.5, "client"'),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05"),
        ("\n}\n", ""),
    ],
)
def test_half_a_file_is_not_believed(old: str, new: str) -> None:
    assert decode_keys(GOOD.encode())
    assert old in GOOD
    with pytest.raises(InvalidKeys) as raised:
        decode_keys(GOOD.replace(old, new, 1).encode())
    assert key_of("hr_0123456789ab_" + "0" * 64).secret_sha256 not in str(raised.value)


def test_two_keys_with_one_id_are_refused() -> None:
    key = key_of(new_token())
    with pytest.raises(InvalidKeys, match="same id"):
        decode_keys(encode_keys([key, key]).encode())


@given(st.binary())
def test_random_bytes_are_no_keys_and_never_another_error(noise: bytes) -> None:
    with suppress(InvalidKeys):
        assert decode_keys(noise) == []


@pytest.mark.parametrize("name", ["shop", "0", "a" * 64, "eu-west.shop_2"])
def test_names_that_pass_unescaped_everywhere(name: str) -> None:
    assert is_client_name(name)


@pytest.mark.parametrize("name", ["", "a" * 65, "Shop", "--shop", ".shop", "a b", "a\n", "ä", 'a"', "a\\", "a\t"])
def test_names_that_do_not(name: str) -> None:
    assert not is_client_name(name)
