"""What a Redis answers that cannot do the work."""

import pytest
from redis._parsers.base import BaseParser

from pipeline.cache.redis_link import describe, refusal_of


def _error(answer: str) -> Exception:
    """As redis-py reads it."""
    error: Exception = BaseParser.parse_error(answer)  # type: ignore[no-untyped-call]
    return error


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("READONLY You can't write against a read only replica.", "read_only"),
        ("READONLY You can't write against a read only replica. script: 1f2e, on @user_script:5.", "read_only"),
        ("ERR Error running script (call to f_1): @user_script:5: -READONLY You can't write against it.", "read_only"),
        ("NOAUTH Authentication required.", "login_refused"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "login_refused"),
        ("NOPERM this user has no permissions to run the 'eval' command", "no_right"),
        ("NOPERM ACL failure in script: User shop_ingest_api has no permissions to run the 'get' command", "no_right"),
        (
            "ERR The user executing the script can't run this command or subcommand script: 1f2e, on @user_script:1.",
            "no_right",
        ),
        ("ERR The user executing the script can't access at least one of the keys mentioned", "no_right"),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", "cut_off"),
        ("LOADING Redis is loading the dataset in memory", "loading"),
        ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist.", "cannot_save"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "out_of_memory"),
        ("NOREPLICAS Not enough good replicas to write.", "no_replicas"),
        ("MOVED 3999 127.0.0.1:6381", "cluster"),
        ("CLUSTERDOWN Hash slot not served", "cluster"),
        ("BUSY Redis is busy running a script.", "busy"),
    ],
)
def test_p12_what_a_redis_says_that_cannot_do_the_work_has_a_name_and_words(answer: str, name: str) -> None:
    error = _error(answer)
    refusal = refusal_of(error)
    assert refusal is not None
    assert refusal.name == name
    assert refusal.words in describe(error)


@pytest.mark.parametrize("answer", ["WRONGTYPE Operation against a key", "ERR unknown command 'x'", "NOSCRIPT none"])
def test_what_is_wrong_with_a_command_says_nothing_of_the_server(answer: str) -> None:
    assert refusal_of(_error(answer)) is None
    assert refusal_of(ConnectionRefusedError()) is None
