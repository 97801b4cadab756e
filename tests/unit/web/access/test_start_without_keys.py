"""When a service starts without API keys, and when it refuses to."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pipeline.contract.api_keys import new_token
from pipeline.process.lifecycle import Misconfigured
from tests.support.data.api_keys import key_of, write_keys
from tests.support.services.settings import settings_from
from web.access.hosts import is_loopback
from web.access.keys import Keys, load_keys
from web.access.settings import ApiSettings

ADDRESSES = {
    "DATABASE_URL": "postgresql://x/y",
    "AMQP_URL": "amqp://x",
    "REDIS_URL": "redis://x",
    "ORDER_ID_KEY": "6b" * 32,
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "api-keys.json"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "example.org", "127.0.0.1.example.org", "fe80::1"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def start(file: Path | None, host: str, **changes: object) -> Keys:
    return load_keys(settings_from(ApiSettings, ADDRESSES, host=host, API_KEYS_FILE=file, **changes))


def test_without_keys_the_loopback_is_open_and_says_so(file: Path) -> None:
    write_keys(file)
    with capture_logs() as logs:
        assert start(file, "127.0.0.1").is_open
        assert start(None, "127.0.0.1").is_open
    assert {line["event"] for line in logs} == {"no API keys: open to everybody on 127.0.0.1"}


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("danger", ["false", "true"])
def test_a_file_that_is_named_and_is_not_there_is_not_the_same_as_no_keys(file: Path, host: str, danger: str) -> None:
    with pytest.raises(
        Misconfigured, match=r"API_KEYS_FILE: .* is not there.* copy; .* keys add; .* \{\"keys\": \[\]\}"
    ):
        start(file, host, ALLOW_UNAUTHENTICATED_ACCESS_FROM_ANYWHERE=danger)


def test_without_keys_no_other_address_is_served_unless_the_danger_is_named(file: Path) -> None:
    write_keys(file)
    with pytest.raises(Misconfigured, match=r"on 0\.0\.0\.0 anybody could .* keys add .* 127\.0\.0\.1"):
        start(file, "0.0.0.0")
    with capture_logs() as logs:
        assert start(file, "0.0.0.0", ALLOW_UNAUTHENTICATED_ACCESS_FROM_ANYWHERE="true").is_open
    assert logs[0]["event"] == "no API keys: open to everybody on 0.0.0.0"


def test_what_counts_is_where_others_reach_it(file: Path) -> None:
    """A container listens on all its addresses; its runtime publishes it on one of the machine's."""
    write_keys(file)
    with capture_logs() as logs:
        assert start(file, "0.0.0.0", PUBLISHED_ON="127.0.0.1").is_open
    assert logs[0]["event"] == "no API keys: open to everybody on 127.0.0.1"
    with pytest.raises(Misconfigured, match=r"on 0\.0\.0\.0 anybody could"):
        start(file, "127.0.0.1", PUBLISHED_ON="0.0.0.0")
    with pytest.raises(ValueError, match="PUBLISHED_ON"):
        start(file, "0.0.0.0", PUBLISHED_ON="")


def test_with_keys_any_address_is_served(file: Path) -> None:
    write_keys(file, key_of(new_token()))
    with capture_logs() as logs:
        assert not start(file, "0.0.0.0").is_open
    assert logs == []


def test_a_file_that_is_out_of_reach_keeps_a_service_from_starting_and_later_is_told_once(file: Path) -> None:
    write_keys(file, key_of(token := new_token()))
    with pytest.raises(Misconfigured, match="cannot be read"):
        start(file / "no directory", "127.0.0.1")
    (moved := file.with_name("directory") / file.name).parent.mkdir()
    write_keys(moved)
    keys = Keys(moved)
    moved.unlink()
    moved.parent.rmdir()
    moved.parent.touch()
    with capture_logs() as logs:
        keys.reload()
        keys.reload()
    assert [line["event"] for line in logs] == ["cannot read the API keys; the service stays open"]
    moved.parent.unlink()
    moved.parent.mkdir()
    file.rename(moved)
    keys.reload()
    assert keys.client_with(token)


@pytest.mark.parametrize("damage", ["", "{", '{"keys":[{}]}', "\0"])
def test_a_damaged_file_keeps_the_service_from_starting(file: Path, damage: str) -> None:
    file.write_text(damage)
    with pytest.raises(Misconfigured, match=r"API_KEYS_FILE: .* cannot be read: .* ./headrace keys add"):
        start(file, "127.0.0.1")
