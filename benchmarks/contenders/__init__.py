"""The designs that Headrace is compared with. Their modules need the packages of requirements-bench.lock.

All take the same request, validate it alike, charge price × quantity, write the tables of migrations/ and move stock.
What was tried on two cores, in turns: pools of 10, 20 and 40 connections (sync-statement also 5; the workers 8 and
16), 4, 8 and 16 consumers at once (sync-tuned), a prefetch of 16, 32 and 64 (FastStream, taskiq), 2 and 4 processes
(Celery). Differences were below the noise but for two: 5 connections are a quarter slower than 10, and 4 processes cost
Celery a fifth more CPU for each order.
"""

from benchmarks.contenders.contender import Contender, Part

_HERE = "benchmarks.contenders"


def _api(module: str, **environment: str) -> Part:
    """One process, as ingest_api is one; uvicorn takes uvloop and httptools by itself when they are there."""
    arguments = (f"{_HERE}.{module}:app", "--no-access-log", "--log-level", "warning")
    return Part("api", "uvicorn", arguments, environment, port_variable="UVICORN_PORT")


def _worker(module: str, *arguments: str, **environment: str) -> Part:
    return Part("worker", module, arguments, environment, ready=None, port_variable=None)


SYNC_SEED = Contender(
    name="sync-seed",
    title="synchronous, as it was",
    what="The old design with its defaults: INSERT, publish, DEL, each awaited in the request; connections to"
    " PostgreSQL without limit, a consumer that moves stock one message at a time.",
    guarantee="A 2xx means that the order is in PostgreSQL; its transient, unconfirmed message is lost with the broker"
    " or the connection, or by an error in the consumer, and then stock never moves and the order stays PENDING.",
    parts=(_api("sync_seed"), _worker(f"{_HERE}.sync_seed")),
)

SYNC_TUNED = Contender(
    name="sync-tuned",
    title="synchronous, tuned",
    what="The same flow at its best: a sized pool with prepared statements, one AMQP connection, a consumer that"
    " decides many messages at once, each in one statement under the row's lock.",
    guarantee="A 2xx means that the order is in PostgreSQL; its transient, unconfirmed message is lost with the broker"
    " or the connection, and then stock never moves and the order stays PENDING.",
    parts=(_api("sync_tuned"), _worker(f"{_HERE}.sync_tuned")),
)

SYNC_TUNED_CONFIRMED = Contender(
    name="sync-tuned-confirmed",
    title="synchronous, tuned, confirmed",
    what="sync-tuned with persistent messages in a quorum queue, each confirmed before the answer.",
    guarantee="A 2xx means that the order is in PostgreSQL and its message on the broker's disk; a crash between the"
    " two answers nobody, and leaves an order that stays PENDING.",
    parts=(_api("sync_tuned", CONFIRMED="1"), _worker(f"{_HERE}.sync_tuned", CONFIRMED="1")),
)

SYNC_STATEMENT = Contender(
    name="sync-statement",
    title="synchronous, one SQL statement",
    what="No broker: order, stock and verdict in one statement and one round trip, through asyncpg's pool.",
    guarantee="A 2xx means that the order is stored and decided; while PostgreSQL is away nothing is accepted, and a"
    " client that retries orders twice.",
    parts=(_api("sync_statement"),),
)

FASTAPI_SQLALCHEMY = Contender(
    name="fastapi-sqlalchemy",
    title="FastAPI + SQLAlchemy",
    what="The common service without a broker: UPDATE … WHERE qty >= n and two INSERTs in one transaction of"
    " SQLAlchemy's AsyncSession on asyncpg.",
    guarantee="A 2xx means that the order is stored and decided; while PostgreSQL is away nothing is accepted, and a"
    " client that retries orders twice.",
    parts=(_api("fastapi_sqlalchemy"),),
    peer=True,
)

FASTAPI_CELERY = Contender(
    name="fastapi-celery",
    title="FastAPI + Celery",
    what="The API sends a task through RabbitMQ, persistent and confirmed; prefork workers store and decide, and"
    " acknowledge late.",
    guarantee="A 2xx means that the task is on the broker's disk; it is run again until it succeeds, but a task that"
    " raises anything but a lost database is acknowledged, and its order is lost.",
    parts=(
        _api("fastapi_celery"),
        _worker(
            "celery",
            "--app",
            f"{_HERE}.fastapi_celery:celery",
            "worker",
            "--loglevel",
            "WARNING",
            # What a deployment with one worker has no use for.
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ),
    ),
    peer=True,
)

FASTSTREAM_RABBIT = Contender(
    name="faststream-rabbit",
    title="FastAPI + FastStream",
    what="The API publishes each order, persistent and confirmed; a FastStream subscriber stores and decides, and"
    " acknowledges after the commit.",
    guarantee="A 2xx means that the message is on the broker's disk; it comes again until it is stored, and one that"
    " can never be stored comes again for ever.",
    parts=(
        _api("faststream_rabbit"),
        _worker("faststream", "run", f"{_HERE}.faststream_rabbit:worker"),
    ),
    peer=True,
)

TASKIQ_RABBIT = Contender(
    name="taskiq-rabbit",
    title="FastAPI + taskiq",
    what="The API sends a task through RabbitMQ, persistent and confirmed; taskiq's asynchronous worker stores and"
    " decides, and acknowledges afterwards.",
    guarantee="A 2xx means that the task is on the broker's disk; a worker that dies has it redelivered, but taskiq"
    " acknowledges failures too: after three retries at once, the order is lost.",
    parts=(
        _api("taskiq_rabbit"),
        _worker("taskiq", "worker", f"{_HERE}.taskiq_rabbit:broker", "--workers", "1", "--log-level", "WARNING"),
    ),
    peer=True,
)

CONTENDERS = (
    SYNC_SEED,
    SYNC_TUNED,
    SYNC_TUNED_CONFIRMED,
    SYNC_STATEMENT,
    FASTAPI_SQLALCHEMY,
    FASTAPI_CELERY,
    FASTSTREAM_RABBIT,
    TASKIQ_RABBIT,
)
