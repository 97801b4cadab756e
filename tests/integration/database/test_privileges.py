"""Each service works with an account that may do what it needs, and with no other: no superuser, no administrator.

Of Redis: test_redis_users.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import aio_pika
import asyncpg
import httpx
import pytest
from aiormq.exceptions import ChannelAccessRefused
from redis.asyncio import Redis

from migrations import privileges
from migrations.__main__ import migrate, wait_until_migrated
from migrations.privileges import GRANTS, OWNER, READ_BY_ALL, role_name
from pipeline.contract import topology
from pipeline.contract.topology import ORDER_ACCEPTED, ORDER_CREATED, ORDERS_EXCHANGE, PRODUCTS_EXCHANGE
from tests.conftest import Servers
from tests.support.clients.keyed import KEY
from tests.support.data.redis_names import NAMESPACE
from tests.support.services.accounts import ONE_AT_A_TIME, Accounts, accounts, refusals
from tests.support.services.deployment import SERVICES, Deployment, deployed
from tests.support.services.ingest import ORDERS
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

pytestmark = ONE_AT_A_TIME

TABLES = (
    "products",
    "orders",
    "stock_adjustments",
    "stock_ledger",
    "dead_letters",
    "product_requests",
    "schema_revisions",
)


@pytest.fixture
async def own(servers: Servers, database_url: str, amqp_url: str, redis_url: str) -> AsyncIterator[Accounts]:
    async with accounts(database_url, amqp_url, servers.rabbitmq_api, redis_url) as found:
        yield found


async def refused(url: str, statement: str) -> bool:
    """Whether the account behind `url` may not do it. What it may is rolled back."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute(statement)
            raise ZeroDivisionError
    except asyncpg.InsufficientPrivilegeError:
        return True
    except (ZeroDivisionError, asyncpg.IntegrityConstraintViolationError):
        return False
    finally:
        await connection.close()


async def test_the_pipeline_works_with_the_accounts_of_its_services(
    own: Accounts, environment: dict[str, str], redis: Redis
) -> None:
    async with (
        connected(environment["DATABASE_URL"]) as connection,
        AsyncExitStack() as stack,
    ):
        deployment = Deployment(environment, connection, stack, own=own.own())
        for name in SERVICES:
            await deployment.start(name)
        product = await deployment.create_product(5)
        accepted = [await deployment.order(product, 2) for _ in range(3)]
        assert [it.status_code for it in accepted] == [202, 202, 202]
        verdicts = [
            await eventually(lambda it=it: deployment.verdict(it.json()["id"]), 20)  # type: ignore[misc]
            for it in accepted
        ]
        assert sorted(it["status"] for it in verdicts) == ["FAILED", "PROCESSED", "PROCESSED"]
        async with deployment.client("product_api") as client:
            answer = await client.post(f"/products/{product}/restock", json={"quantity": 4})
            assert answer.status_code == 200, answer.text
            etag = answer.headers["ETag"]
            assert (await client.delete(f"/products/{product}", headers={"If-Match": etag})).status_code == 204
        assert await refusals(redis) == []


async def test_p5_keyed_orders_and_lists_through_the_cache_work_with_them(
    own: Accounts, environment: dict[str, str], redis: Redis
) -> None:
    async with deployed(environment, own=own.own()) as deployment:
        product = await deployment.create_product(5)
        first = await deployment.order(product, 2, **{"Idempotency-Key": KEY})
        again = await deployment.order(product, 2, **{"Idempotency-Key": KEY})
        assert (first.json()["id"], again.headers["Idempotency-Replayed"]) == (again.json()["id"], "true")
        await eventually(lambda: deployment.verdict(first.json()["id"]), 20)
        assert (await deployment.product(product))["qty"] == 3
        async with deployment.client("ingest_api") as client:
            for _ in range(2):
                assert [it["id"] for it in (await client.get(f"{ORDERS}/product/{product}")).json()] == [
                    first.json()["id"]
                ]
        for name in ("ingest_api", "product_api", "product_consumer"):
            async with deployment.client(name) as client:
                assert (await client.get("/health")).json()["parts"]["redis"] == "ok"
        found = cast("list[bytes]", await redis.keys(f"{NAMESPACE}*"))  # the client decodes no responses
        kinds = {key.split(b":")[1].decode() for key in found}
        assert kinds >= {"claim", "claims", "memory", "product", "cache-epoch"}
        assert await refusals(redis) == []


async def test_no_account_of_a_service_is_a_superuser_or_owns_anything(own: Accounts, database_url: str) -> None:
    for role in GRANTS:
        connection = await asyncpg.connect(own.databases[role])
        try:
            attributes = await connection.fetchrow(
                "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls,"
                " (SELECT count(*) FROM pg_class WHERE pg_get_userbyid(relowner) = current_user),"
                " (SELECT count(*) FROM pg_auth_members WHERE member = pg_roles.oid)"
                " FROM pg_roles WHERE rolname = current_user"
            )
            assert tuple(attributes or ()) == (False, 0, 0), role
        finally:
            await connection.close()


@pytest.mark.parametrize("role", GRANTS)
async def test_what_the_table_of_grants_does_not_say_is_refused(own: Accounts, role: str) -> None:
    """Every table, and every kind of statement."""
    statements = {
        "SELECT": "SELECT count(*) FROM {}",
        "INSERT": "INSERT INTO {} DEFAULT VALUES",
        "DELETE": "DELETE FROM {}",
        "TRUNCATE": "TRUNCATE {} CASCADE",
        "UPDATE": "UPDATE {} SET {} = NULL",
    }
    columns = dict.fromkeys(TABLES, "detail") | {
        "products": "id",
        "orders": "quantity",
        "stock_adjustments": "delta",
        "stock_ledger": "outcome",
        "schema_revisions": "name",
        "product_requests": "status",
    }
    for table in TABLES:
        may = GRANTS[role].get(table, "SELECT" if table == READ_BY_ALL else "")
        for kind, statement in statements.items():
            is_allowed = kind in may and not (kind == "UPDATE" and "UPDATE (" in may)
            sql = statement.format(table, columns[table])
            assert await refused(own.databases[role], sql) != is_allowed, sql


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("ingest_api", "DELETE FROM orders"),
        ("ingest_api", "CREATE TABLE mine (id int)"),
        ("ingest_api", "CREATE TEMPORARY TABLE mine (id int)"),
        ("product_api", "INSERT INTO orders DEFAULT VALUES"),
        ("product_consumer", "UPDATE products SET price = 0"),
        ("persist_worker", "UPDATE products SET qty = 0"),
        ("persist_worker", "CREATE SCHEMA mine"),
        ("operator", "UPDATE orders SET unit_price = 0"),
        ("operator", "COPY orders TO PROGRAM 'true'"),
        ("product_api", "SET session_replication_role = replica"),
        ("product_api", "SELECT pg_read_file('/etc/passwd')"),
    ],
)
async def test_no_account_does_what_is_not_its_business(own: Accounts, role: str, statement: str) -> None:
    assert await refused(own.databases[role], statement)


async def test_every_table_is_somebodys(own: Accounts) -> None:
    """A new one needs a line in migrations/privileges.py, or no service can use it."""
    connection = await asyncpg.connect(own.databases[OWNER])
    try:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    finally:
        await connection.close()
    assert {row[0] for row in rows} == {table for tables in GRANTS.values() for table in tables} | {READ_BY_ALL}


async def test_another_database_of_the_server_is_closed_to_them(own: Accounts, servers: Servers) -> None:
    """The roles are the whole server's; what others made there is theirs to close. Ours is closed to everybody else."""
    connection = await asyncpg.connect(own.databases["ingest_api"])
    try:
        allowed = "SELECT has_database_privilege('public', current_database(), $1)"
        assert [await connection.fetchval(allowed, it) for it in ("CONNECT", "TEMPORARY", "CREATE")] == [False] * 3
    finally:
        await connection.close()


async def test_a_second_migration_takes_back_what_somebody_added(own: Accounts, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        name = role_name(await connection.fetchval("SELECT current_database()"), "product_api")
        await connection.execute(f'GRANT DELETE ON orders TO "{name}"; GRANT UPDATE (qty) ON products TO "{name}"')
    finally:
        await connection.close()
    assert not await refused(own.databases["product_api"], "DELETE FROM orders WHERE false")
    await migrate(own.databases[OWNER])
    assert await refused(own.databases["product_api"], "DELETE FROM orders WHERE false")
    assert not await refused(own.databases["product_api"], "UPDATE products SET qty = 1 WHERE false")


async def test_a_pod_of_any_service_can_wait_for_the_schema(own: Accounts) -> None:
    for role in GRANTS:
        await wait_until_migrated(own.databases[role])


def test_an_administrator_makes_the_roles_with_one_command(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a database whose tables an earlier version made as a superuser. Twice is no harm."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    assert privileges.main([str(tmp_path)]) == 1
    assert "owner" in capsys.readouterr().err, "the first file that is missing"
    for role in (OWNER, *GRANTS):
        (tmp_path / role).write_text(f"{role}-password\n")
    assert [privileges.main([str(tmp_path)]) for _ in range(2)] == [0, 0]
    assert privileges.main([]) == 2
    owner = privileges.role_name(database_url.rpartition("/")[2], OWNER)
    host = database_url.rpartition("@")[2]
    assert asyncio.run(migrate(f"postgresql://{owner}:owner-password@{host}")) == []
    assert "password" not in capsys.readouterr().out


# ── RabbitMQ


async def publishes(url: str, exchange: str, key: str) -> bool:
    """Whether the broker takes a message from the user behind `url`."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        target = await channel.get_exchange(exchange, ensure=False)
        try:
            await target.publish(aio_pika.Message(b"[]"), key, mandatory=False)
        except ChannelAccessRefused:
            return False
        return True


# What each declares at its start, in its app.py or __main__.py; the operator: dead/replay.py and repair.py.
DECLARED = {
    "ingest_api": (topology.declare_accepted, topology.declare_cancel_requested, topology.declare_product_events),
    "persist_worker": (topology.declare_accepted, topology.declare_created, topology.declare_dead),
    "product_consumer": (
        topology.declare_created,
        topology.declare_cancel_requested,
        topology.declare_products,
    ),
    "product_api": (topology.declare_products,),
    "operator": (topology.declare_accepted, topology.declare_created, topology.declare_cancel_requested),
}


@pytest.fixture
async def declared(own: Accounts) -> None:
    """All that there is, each part of it by those who use it."""
    for user, parts in DECLARED.items():
        for declare in parts:
            async with await aio_pika.connect(own.brokers[user]) as connection:
                await declare(await connection.channel())


async def test_each_publishes_what_is_its_own_and_nothing_else(own: Accounts, declared: None) -> None:
    allowed = {
        (ORDERS_EXCHANGE, ORDER_ACCEPTED): {"ingest_api", "operator"},
        (ORDERS_EXCHANGE, ORDER_CREATED): {"persist_worker", "operator"},
        (ORDERS_EXCHANGE, topology.ORDER_CANCEL_REQUESTED): {"ingest_api", "operator"},
        (PRODUCTS_EXCHANGE, "product.updated"): {"product_consumer", "product_api"},
        ("amq.topic", "x"): set(),
    }
    for (exchange, key), users in allowed.items():
        found = {user for user in own.brokers if await publishes(own.brokers[user], exchange, key)}
        assert found == users, (exchange, key)


@pytest.mark.parametrize(
    ("user", "queue"),
    [("product_api", "orders.accepted"), ("ingest_api", "orders.created"), ("product_consumer", "orders.accepted")],
)
async def test_none_reads_or_deletes_the_queue_of_another(own: Accounts, declared: None, user: str, queue: str) -> None:
    async with await aio_pika.connect(own.brokers[user]) as connection:
        for act in ("get", "delete", "purge"):
            channel = await connection.channel()
            found = await channel.get_queue(queue, ensure=False)
            with pytest.raises(ChannelAccessRefused):
                await getattr(found, act)()


async def test_none_declares_a_queue_of_its_own_choice(own: Accounts) -> None:
    for url in own.brokers.values():
        async with await aio_pika.connect(url) as connection:
            with pytest.raises(ChannelAccessRefused):
                await (await connection.channel()).declare_queue("orders.accepted.mine", durable=True)


async def test_none_is_an_administrator_or_reaches_the_management_api(own: Accounts, servers: Servers) -> None:
    for url in own.brokers.values():
        login = httpx.URL(url)
        api = httpx.URL(servers.rabbitmq_api).copy_with(username=login.username, password=login.password)
        async with httpx.AsyncClient(base_url=api) as client:
            assert (await client.get("/api/overview")).status_code == 401
