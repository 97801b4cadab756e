"""The users of RabbitMQ follow from one table, and the table from the topology."""

import base64
import hashlib
import json
import re

import pytest

from migrations.privileges import GRANTS, OWNER, role_name
from pipeline.contract import topology
from stack.home.credentials import generate
from stack.home.state import SERVICES
from stack.servers.accounts import broker_passwords, broker_urls, database_passwords, database_urls
from stack.servers.broker_users import RIGHTS, definitions, pattern, permissions


def test_a_pattern_matches_its_names_whole_and_no_others() -> None:
    found = re.compile(pattern(["orders.accepted", "amq.gen-*"]))
    assert all(found.search(name) for name in ("orders.accepted", "amq.gen-x_9"))
    assert not any(
        found.search(name) for name in ("ordersXaccepted", "orders.accepted.2", "x.orders.accepted", "amq.genx")
    )
    assert not re.search(pattern([]), "anything")


def test_every_service_has_an_account_on_both_servers_and_nobody_another() -> None:
    assert set(RIGHTS) == set(GRANTS) == {*SERVICES, "operator"}


def test_nobody_reads_queues_it_does_not_declare() -> None:
    queues = {*topology.QUEUES.values(), topology.ORDERS_DEAD_QUEUE}
    for user, rights in RIGHTS.items():
        assert queues & set(rights.read) <= set(rights.configure), user
        assert set(rights.read) | set(rights.write) <= set(rights.configure), user


def test_definitions_hold_hashes_that_the_passwords_fit_and_no_password() -> None:
    passwords = broker_passwords(generate())
    text = definitions(passwords, "/", ("admin", "secret"))
    assert not any(password in text for password in (*passwords.values(), "secret"))
    made = json.loads(text)
    for user in made["users"]:
        raw = base64.b64decode(user["password_hash"])
        password = passwords.get(user["name"], "secret")
        assert raw[4:] == hashlib.sha256(raw[:4] + password.encode()).digest()
    assert {user["name"]: user["tags"] for user in made["users"]} == {key: [] for key in RIGHTS} | {
        "admin": ["administrator"]
    }
    assert text == definitions(passwords, "/", ("admin", "secret")), "the same each time"
    (worker,) = [it for it in made["permissions"] if it["user"] == "persist_worker"]
    assert permissions(RIGHTS["persist_worker"]).items() <= worker.items()


def test_no_two_accounts_share_a_password_and_none_tells_the_administrators() -> None:
    made = generate()
    passwords = [*database_passwords(made).values(), *broker_passwords(made).values(), made.postgres, made.rabbitmq]
    assert len(set(passwords)) == len(passwords)


def test_addresses_differ_in_the_account_alone() -> None:
    made = generate()
    urls = database_urls("postgresql://headrace:x@h:5432/shop?application_name=x", made)
    assert urls[OWNER].startswith("postgresql://shop_owner:")
    assert urls["ingest_api"].endswith("@h:5432/shop?application_name=x")
    assert broker_urls("amqp://u:p@a/%2F,amqp://u:p@b/%2F", made)["operator"].count("amqp://operator:") == 2


def test_a_database_whose_name_leaves_no_room_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than"):
        role_name("x" * 60, "ingest_api")
