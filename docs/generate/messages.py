"""The reference of the messages at the broker, from the AsyncAPI document."""

from typing import Any

import msgspec

from docs.generate.table import table
from ingest_api.documents.asyncapi import asyncapi_document

Json = dict[str, Any]
_HEAD = """\
# Messages

[Download the AsyncAPI document](asyncapi.json). ingest_api serves it at `/asyncapi.json`.
"""


def document() -> Json:
    read: Json = msgspec.json.decode(msgspec.json.encode(asyncapi_document()))
    return read


def page() -> str:
    asyncapi = document()
    channels = asyncapi["channels"]
    parts = [_HEAD, asyncapi["info"]["description"], "## Who sends and receives what\n"]
    operations = (
        (it["title"], it["action"], f"`{_address(channels[it['channel']['$ref'].rsplit('/', 1)[1]])}`", it["summary"])
        for it in asyncapi["operations"].values()
    )
    parts += [table(("process", "does", "routing key or queue", "what"), operations), "## Queues\n"]
    queues = [it["bindings"]["amqp"]["queue"] for it in channels.values() if it["bindings"]["amqp"]["is"] == "queue"]
    parts += [table(("queue", "bound to", "arguments"), map(_queue, queues)), "## Bodies\n"]
    for message in asyncapi["components"]["messages"].values():
        example = msgspec.json.format(msgspec.json.encode(message["examples"][0]["payload"]), indent=2).decode()
        headers = ", ".join(f"`{name}`" for name in message["headers"]["properties"])
        text = f"{message['summary']} Headers: {headers}."
        parts += [f"### {message['title']}\n", f"{text}\n", f"```json\n{example}\n```\n"]
    return "\n".join(parts)


def _address(channel: Json) -> str:
    return channel["address"] or "a queue of its own"


def _queue(queue: Json) -> tuple[str, ...]:
    bindings = ", ".join(f"`{it['exchange']}` / `{it['routingKey']}`" for it in queue["x-bindings"])
    arguments = ", ".join(f"`{name}` {value}" for name, value in queue["x-arguments"].items())
    return f"`{queue['name'] or 'named by the broker'}`", bindings, arguments
