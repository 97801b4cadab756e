"""Permissions in RabbitMQ: one table, from which the users of `up`, of Compose and of Kubernetes derive.

Each service declares what it uses, so it needs `configure` there. Declaring a queue with a dead-letter exchange needs
`read` on the queue and `write` on that exchange. Binding needs `write` on the queue and `read` on the exchange.
Nobody here is an administrator: no service needs the management API.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.contract.topology import (
    DEAD_EXCHANGE,
    EVENTS_EXCHANGE,
    INTAKE_BEGAN_EXCHANGE,
    ORDER_ACCEPTED,
    ORDER_CANCEL_REQUESTED,
    ORDER_CREATED,
    ORDERS_ACCEPTED_QUEUE,
    ORDERS_CANCEL_REQUESTED_QUEUE,
    ORDERS_CREATED_QUEUE,
    ORDERS_DEAD_QUEUE,
    ORDERS_EXCHANGE,
    PRODUCTS_EXCHANGE,
)

# Each ingest_api has a private queue of product events, named by the broker.
PRIVATE_QUEUES = "amq.gen-*"
_ORDERS = (ORDERS_EXCHANGE, DEAD_EXCHANGE, ORDERS_DEAD_QUEUE)
# ingest_api publishes to these.
_INTAKE = (ORDERS_ACCEPTED_QUEUE, ORDERS_CANCEL_REQUESTED_QUEUE)
# product_consumer consumes these.
_STOCK = (ORDERS_CREATED_QUEUE, ORDERS_CANCEL_REQUESTED_QUEUE)
_ALL = (*_ORDERS, ORDERS_ACCEPTED_QUEUE, *_STOCK)


@dataclass(frozen=True)
class Rights:
    """Exchanges and queues that a user may configure, write and read.

    `order_keys`: the routing keys with which it may publish to orders_exchange.
    """

    configure: tuple[str, ...]
    write: tuple[str, ...]
    read: tuple[str, ...]
    order_keys: tuple[str, ...] = ()


RIGHTS: Mapping[str, Rights] = {
    "ingest_api": Rights(
        configure=(*_ORDERS, INTAKE_BEGAN_EXCHANGE, *_INTAKE, PRODUCTS_EXCHANGE, PRIVATE_QUEUES),
        write=(*_ORDERS, *_INTAKE, PRIVATE_QUEUES),
        read=(ORDERS_EXCHANGE, DEAD_EXCHANGE, *_INTAKE, PRODUCTS_EXCHANGE, PRIVATE_QUEUES),
        order_keys=(ORDER_ACCEPTED, ORDER_CANCEL_REQUESTED),
    ),
    "persist_worker": Rights(
        configure=(*_ORDERS, ORDERS_ACCEPTED_QUEUE, ORDERS_CREATED_QUEUE),
        write=(*_ORDERS, ORDERS_ACCEPTED_QUEUE, ORDERS_CREATED_QUEUE),
        read=(*_ORDERS, ORDERS_ACCEPTED_QUEUE, ORDERS_CREATED_QUEUE),
        order_keys=(ORDER_CREATED,),
    ),
    "product_consumer": Rights(
        configure=(*_ORDERS, *_STOCK, PRODUCTS_EXCHANGE),
        write=(*_ORDERS, *_STOCK, PRODUCTS_EXCHANGE),
        read=(ORDERS_EXCHANGE, DEAD_EXCHANGE, *_STOCK),
    ),
    "product_api": Rights(configure=(PRODUCTS_EXCHANGE,), write=(PRODUCTS_EXCHANGE,), read=()),
    "event_relay": Rights(configure=(EVENTS_EXCHANGE,), write=(EVENTS_EXCHANGE,), read=()),
    # `dead replay` and `verify --repair` publish orders and cancellations again.
    "operator": Rights(
        configure=_ALL,
        write=_ALL,
        read=_ALL,
        order_keys=(ORDER_ACCEPTED, ORDER_CREATED, ORDER_CANCEL_REQUESTED),
    ),
}


def pattern(names: Iterable[str]) -> str:
    """A RabbitMQ regular expression that matches exactly these names. `*` in a name matches anything."""
    each = [re.escape(name).replace(r"\*", ".*").replace(r"\-", "-") for name in names]
    return f"^({'|'.join(each)})$" if each else "^$"


def permissions(rights: Rights) -> dict[str, str]:
    return {name: pattern(getattr(rights, name)) for name in ("configure", "write", "read")}


def definitions(passwords: Mapping[str, str], vhost: str, administrator: tuple[str, str] | None = None) -> str:
    """The definitions that a node imports when it boots, as JSON. `passwords`: by user; only their hashes are written.

    `administrator`: name and password of an account for people. No service knows it.
    """
    users: list[dict[str, Any]] = [_user(name, passwords[name], []) for name in RIGHTS]
    allowed = [{"user": name, "vhost": vhost, **permissions(rights)} for name, rights in RIGHTS.items()]
    if administrator:
        name, password = administrator
        users.append(_user(name, password, ["administrator"]))
        allowed.append({"user": name, "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"})
    keys = [
        {"user": name, "vhost": vhost, "exchange": ORDERS_EXCHANGE, "write": pattern(rights.order_keys), "read": ".*"}
        for name, rights in RIGHTS.items()
    ]
    found = {"users": users, "vhosts": [{"name": vhost}], "permissions": allowed, "topic_permissions": keys}
    return json.dumps(found, indent=2) + "\n"


def _user(name: str, password: str, tags: list[str]) -> dict[str, Any]:
    # The salt derives from the password, so the same passwords give the same file.
    salt = hashlib.sha256(f"salt {name} {password}".encode()).digest()[:4]
    digest = salt + hashlib.sha256(salt + password.encode()).digest()
    return {
        "name": name,
        "password_hash": base64.b64encode(digest).decode(),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": tags,
    }
