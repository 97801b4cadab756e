"""An address that cannot be used is refused before anything connects, and no message shows a part of it."""

from pathlib import Path

import pytest

from pipeline.process.addresses import BadAddress, check_brokers, check_database, check_libpq, check_redis

CHECKS = {
    "postgresql": check_database,
    "postgres": check_database,
    "amqp": check_brokers,
    "amqps": check_brokers,
    "redis": check_redis,
    "rediss": check_redis,
    "unix": check_redis,
}
END = {"postgresql": "db:5432/d", "amqp": "mq:5672/%2F", "redis": "cache:6379/0"}


def refusal(url: str) -> str:
    with pytest.raises(BadAddress) as error:
        CHECKS[url.partition(":")[0]](url)
    return str(error.value)


@pytest.mark.parametrize("scheme", END)
@pytest.mark.parametrize(
    ("character", "escaped"), [("#", "%23"), ("/", "%2F"), ("?", "%3F"), ("@", "%40"), ("%", "%25")]
)
@pytest.mark.parametrize("place", ["{}tops3cret", "top{}s3cret", "tops3cret{}", "t{0}op{0}s3cret"])
def test_a_password_must_be_escaped_and_is_never_shown(scheme: str, character: str, escaped: str, place: str) -> None:
    text = refusal(f"{scheme}://user:{place.format(character)}@{END[scheme]}")
    assert escaped in text
    assert not any(part in text for part in ("top", "s3cret", "user"))
    good = f"{scheme}://user:{place.format(escaped)}@{END[scheme]}"
    assert CHECKS[scheme](good) == good


@pytest.mark.parametrize("scheme", END)
@pytest.mark.parametrize("bad", ["p[w", "p]w", "p w", "p\nw", "p\tw", "p\x00w", "p%00w", "p%FFw", "p%zzw", "p,w@x:y"])
def test_what_a_password_cannot_hold_is_refused(scheme: str, bad: str) -> None:
    assert bad not in refusal(f"{scheme}://u:{bad}@{END[scheme]}")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@db/d",
        "postgres://u:p%40%3A%2F@db:5432/d?sslmode=require&target_session_attrs=read-write",
        "postgresql://u:p@a:1,b:2,[::1]:3/d?target_session_attrs=primary",
        "postgresql:///d?host=/var/run/postgresql&user=u",
        "postgresql:///d?host=a,b&port=1,2",
        "postgresql://u@%2Fvar%2Frun%2Fpostgresql/d",
        "postgresql://u:p@[2001:db8::1]:5432/d?search_path=shop",
        "amqp://mq",
        "amqp://u:p@mq:5672",
        "amqp://u:p@mq:5672/",
        "amqp://u:p:q@mq/%2f",
        "amqp://u:p@[::1]:5672/shop",
        "amqps://u:p@mq/%2F?no_verify_ssl=1",
        "amqp://u:p@a/v,amqp://u:p@b/v,amqps://u:p@c/v",
        "amqp://a/,amqp://b/%2F,amqp://c",
        "redis://cache",
        "redis://cache:6379/",
        "redis://:p@cache:6379/15",
        "redis://u:p@[::1]:6379/0?health_check_interval=30",
        "redis://cache/0?db=1",
        "rediss://u:p@cache/0?ssl_cert_reqs=none&ssl_check_hostname=false",
        "unix:///run/redis.sock?db=1&password=p",
        "unix://u:p@/run/redis.sock",
    ],
)
def test_what_can_be_used_passes_as_it_is(url: str) -> None:
    assert CHECKS[url.partition(":")[0]](url) == url


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://u:p@db/d?connect_timeout=10", "`connect_timeout`, which cannot be used here"),
        ("postgresql://u:p@db/d?application_name=x", "`application_name`"),
        ("postgresql://u:p@db/d?sslmod=require", "did you mean `sslmode`?"),
        ("postgresql://u:p@db/d?sslmode=yes", "`sslmode`, which is one of disable, allow"),
        ("postgresql://u:p@db/d?sslmode=", "`sslmode`"),
        ("postgresql://u:p@db/d?sslmode", "no option=value"),
        ("postgresql://u:p@db/d?sslmode=require&sslmode=disable", "twice"),
        ("postgresql://u:p@db/d?sslrootcert=/nothing/here.crt", "No such file or directory"),
        ("postgresql://u:p@db/d?sslrootcert=/dev/null", "holds no certificate"),
        ("postgresql://u:p@db/d?sslnegotiation=direct", "sslmode=require"),
        ("postgresql://u:p@db/d?target_session_attrs=read-only", "`target_session_attrs`"),
        ("postgresql://u:p@db/d?channel_binding=require", "`channel_binding`"),
        ("postgresql://u:p@db/d?pool_size=5", "`pool_size`, which is not known"),
        ("postgresql://u:p@db/d/e", "%2F"),
        ("postgresql:///d", "names no host"),
        ("postgresql:///d?host=a,,b", "names no host"),
        ("postgresql:///d?host=a,b&port=1,2,3", "another number of ports"),
        ("postgresql:///d?host=a&port=x", "`port`, which is a number"),
        ("postgresql://u:p@/d", "names no host"),
        ("postgresql://@db/d", "no user"),
        ("postgresql://u:p@db:0/d", "port"),
        ("postgresql://u:p@db:65536/d", "port"),
        ("postgresql://u:p@db:/d", "port"),
        ("postgresql://u:p@db:5432x/d", "port"),
        ("postgresql://u:p@db:٣/d", "port"),
        ("postgresql://u:p@2001:db8::1/d", "needs brackets"),
        ("postgresql://u:p@[2001:db8::1/d", "brackets"),
        ("postgresql://u:p@[db]:5432/d", "brackets"),
        ("postgresql://u:p@a,/d", "names no host"),
        ("postgresql://u:p@d b/d", "white space"),
        ("amqp://u:p@mq/v?heartbeat=5", "AMQP_HEARTBEAT_S"),
        ("amqp://u:p@mq/v?cafile=/etc/passwd", "holds no certificate"),
        ("amqp://u:p@mq/v?no_verify_ssl=1", "of `amqps://` alone"),
        ("amqp://u:p@mq/v?vhost=x", "`vhost`, which is not known"),
        ("amqp://u:p@a/v,", "comma"),
        ("amqp://u:p@a/v,http://b/", "does not begin with amqp://"),
        ("amqp://u:p@a/v,amqp://u:p@b/w", "different virtual hosts"),
        ("amqp://u:p@a,b/v", "does not begin with"),
        ("amqp://", "names no host"),
        ("redis://cache?decode_responses=True", "`decode_responses`, which cannot be used here"),
        ("redis://cache?max_connections=1", "`max_connections`"),
        ("redis://cache?socket_timeout=60", "`socket_timeout`"),
        ("redis://cache?nonsense=1", "`nonsense`, which is not known"),
        ("redis://cache?db=x", "`db`, which is a number"),
        ("redis://cache?password=p", "of `unix://` alone"),
        ("redis://cache?ssl_cert_reqs=none", "of `rediss://` alone"),
        ("redis://cache/abc", "database's number"),
        ("redis://cache/0/1", "database's number"),
        ("redis://a:x,redis://b:1", "port"),
        ("redis://a,b/0", "comma"),
        ("redis://", "names no host"),
        ("redis://%2Frun%2Fredis.sock", "socket's path"),
        ("unix://run/redis.sock", "unix:///run"),
        ("unix://", "unix:///run"),
    ],
)
def test_what_cannot_be_used_is_named(url: str, told: str) -> None:
    assert told in refusal(url)


@pytest.mark.parametrize("check", [check_database, check_brokers, check_redis])
@pytest.mark.parametrize("url", ["", "localhost:5432", "http://h/", "postgresql+asyncpg://h/", "POSTGRES://h/", "//h/"])
def test_another_scheme_is_refused_with_an_example(check: object, url: str) -> None:
    with pytest.raises(BadAddress, match=r"looks like|comma"):
        check(url)  # type: ignore[operator]


def test_who_is_to_be_trusted_must_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "needs sslrootcert=FILE" in refusal("postgresql://u:p@db/d?sslmode=verify-full")
    monkeypatch.setenv("PGSSLROOTCERT", "/somewhere")
    check_database("postgresql://u:p@db/d?sslmode=verify-full")


@pytest.mark.parametrize(("name", "value"), [("PGPORT", "x"), ("PGSSLMODE", "on"), ("PGTARGETSESSIONATTRS", "standby")])
def test_what_the_database_client_reads_beside_the_url_is_checked_too(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql://u:p@db/d"
    monkeypatch.delenv(name, raising=False)
    assert check_libpq(url) == url
    monkeypatch.setenv(name, value)
    with pytest.raises(BadAddress, match=f"the variable {name}, which is"):
        check_libpq(url)
