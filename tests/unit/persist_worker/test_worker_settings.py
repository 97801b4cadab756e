"""Settings of the workers that contradict each other stop the process at start, in one line that names them."""

import pytest

from database import connection
from persist_worker.settings import PersistSettings
from pipeline.broker import connection as broker
from pipeline.broker.worker_settings import WorkerSettings
from pipeline.process import lifecycle
from product_consumer.settings import ConsumerSettings

REQUIRED = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
    "AMQP_URL": "amqp://nobody@127.0.0.1:1/",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "ORDER_ID_KEY": "6b" * 32,
}
WORKERS = {"PERSIST_WORKER": PersistSettings, "PRODUCT_CONSUMER": ConsumerSettings}


async def never(*_: object) -> None:
    raise AssertionError("it started")


@pytest.mark.parametrize("prefix", WORKERS)
@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"PREFETCH": "10", "BATCH_MAX_DELIVERIES": "6"}, "PREFETCH: 10 is below twice the 6 deliveries"),
        ({"BATCH_MAX_DELIVERIES": "200"}, "is below twice the 200 deliveries"),
        ({"PREFETCH": "65536"}, "PREFETCH: Input should be less than or equal to 65535"),
        ({"BATCH_HOLD_S": "1800"}, "BATCH_HOLD_S: Input should be less than or equal to 1200"),
        ({"BATCH_MAX_DELIVERIES": "many"}, "BATCH_MAX_DELIVERIES: Input should be a valid integer"),
    ],
    ids=str,
)
def test_what_contradicts_is_one_line_and_exit_78(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    prefix: str,
    variables: dict[str, str],
    complaint: str,
) -> None:
    for name, value in (REQUIRED | {f"{prefix}_{name}": value for name, value in variables.items()}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        lifecycle.run("worker", WORKERS[prefix], never)
    assert ended.value.code == 78
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith(f"worker: {prefix}_")
    assert complaint in first
    assert others == []


@pytest.mark.parametrize("settings_type", WORKERS.values())
def test_the_defaults_agree(settings_type: type[WorkerSettings]) -> None:
    settings = settings_type.model_validate(REQUIRED)
    assert settings.prefetch >= 2 * settings.limits().deliveries


@pytest.mark.parametrize("settings_type", WORKERS.values())
def test_what_is_held_is_given_back_long_before_the_broker_takes_it_away(settings_type: type[WorkerSettings]) -> None:
    """A delivery that is unacknowledged for half an hour costs the channel, and so do the next ones."""
    assert settings_type.model_validate(REQUIRED).limits().hold_s <= 30 * 60 / 2


@pytest.mark.parametrize("settings_type", WORKERS.values())
def test_p9_a_worker_ends_before_who_is_in_a_hurry_kills_it(settings_type: type[WorkerSettings]) -> None:
    """`docker stop` and `./headrace down` give it ten seconds, with which it has to hang up on who is silent, too."""
    settings = settings_type.model_validate(REQUIRED)
    assert settings.stop_grace_s + broker._CLOSE_TIMEOUT_S + connection._CLOSE_TIMEOUT_S <= 10
