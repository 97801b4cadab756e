"""`up`, `status` and the other commands of one stack that runs.

Most tests share it, and `Stack.up` is quick when it runs already.
"""

import asyncio
import json
import os
import re
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from stack.home.state import load
from stack.process import proc
from stack.process.http import get, post_json
from tests.support.services.accounts import refusals
from tests.support.services.command import SERVERS, SERVICES, Stack
from tests.support.services.ingest import execute
from tests.support.time.conditions import eventually


def test_up_prints_each_step_with_its_time_and_where_everything_is(stack: Stack) -> None:
    output = stack.up()
    for step in ("PostgreSQL", "RabbitMQ", "Redis", "migrations", *SERVICES, "demo products"):
        assert re.search(rf"{step}.* \d+\.\d s$", output, re.MULTILINE), output
    for part in SERVICES | {"postgresql://", "amqp://", "redis://", "./headrace demo", str(stack.home.logs)}:
        assert part in output
    assert "\x1b" not in output, "colours are for terminals"


def test_dead_letters_are_replayed_into_the_stack_that_runs(stack: Stack) -> None:
    stack.up()
    columns = "(stage, reason, detail, body, schema_version)"
    insert = f"INSERT INTO dead_letters {columns} VALUES ('persist', 'x', '', '[]', 1)"
    asyncio.run(execute(stack.status()["postgres"]["url"], insert))
    assert stack.run("dead", "list").endswith("\n1 waiting to be replayed: 1 persist x\n")
    assert stack.run("dead", "replay") == "replayed 1 dead letters: 1 to order.accepted\n"
    assert stack.run("dead", "list") == "0 waiting to be replayed\n"


def test_the_printed_curl_works_when_pasted(stack: Stack) -> None:
    stack.up()
    shown = stack.up()
    url, body = re.findall(r"curl -s (\S+) .* -d '(.*)'", shown)[0]
    status, answer = post_json(url, json.loads(body), 10)
    assert (status, json.loads(answer)["quantity"]) == (202, 2)


def test_the_examples_of_the_documents_work_as_they_are(stack: Stack) -> None:
    """The requests that /docs sends at the first click: its examples, without optional parameters."""
    stack.up()
    asked_for = set()
    for name in ("ingest_api", "product_api"):
        with httpx.Client(base_url=stack.status()["services"][name]["url"], timeout=10) as client:
            for method, path, operation in operations_of(client.get("/openapi.json").json()):
                if missing := [it["name"] for it in operation["parameters"] if it["required"] and "example" not in it]:
                    asked_for.add((operation["operationId"], *missing))
                    continue
                for request in first_clicks(client, method, path, operation):
                    assert client.send(request).is_success, (request.method, request.url, request.content)
    # A reader must choose an order to read or cancel, a version, and the product to delete.
    orders = {("getOrder", "order_id"), ("cancelOrder", "order_id")}
    assert asked_for == orders | {("replaceProduct", "If-Match"), ("deleteProduct", "product_id")}


def operations_of(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def first_clicks(client: httpx.Client, method: str, path: str, operation: Any) -> Iterator[httpx.Request]:
    """One request for each media type of a body, with its first example."""
    url = path.format(**{it["name"]: it["example"] for it in operation["parameters"] if it["in"] == "path"})
    bodies = operation.get("requestBody", {}).get("content")
    if bodies is None:
        yield client.build_request(method, url)
        return
    for media_type, content in bodies.items():
        value = next(iter(content["examples"].values()))["value"]
        body = value if isinstance(value, str) else json.dumps(value)
        yield client.build_request(method, url, content=body, headers={"Content-Type": media_type})


def test_up_again_says_that_it_runs_and_changes_nothing(stack: Stack) -> None:
    stack.up()
    before = stack.status()
    assert stack.up().startswith("headrace is running already\n")
    assert stack.status() == before


def test_status_tells_programs_where_everything_is(stack: Stack) -> None:
    stack.up()
    status = stack.status()
    assert status["running"] is True
    assert set(status["services"]) == SERVICES
    for service in status["services"].values():
        assert (service["state"], service["restarts"]) == ("ready", 0)
        assert get(f"{service['url']}/readyz", 5)[0] == 200
        assert proc.stat_of(service["pid"])
    assert all(":" in status[server]["url"].partition("@")[0] for server in SERVERS), "with their passwords"


def test_p8_status_knows_the_health_listeners_of_the_apis(stack: Stack) -> None:
    stack.up()
    parts = load(stack.home).parts
    for name in ("ingest_api", "product_api"):
        assert parts[name].health_url not in ("", parts[name].url)
        assert get(f"{parts[name].health_url}/health", 5)[0] == 200


@pytest.mark.timeout(300)
async def test_status_and_verify_tell_what_waits_while_a_worker_is_frozen(stack: Stack) -> None:
    stack.up()
    url, body = re.findall(r"curl -s (\S+) .* -d '(.*)'", stack.up())[0]
    frozen = stack.status()["services"]["persist_worker"]["pid"]
    os.kill(frozen, signal.SIGSTOP)
    try:
        assert post_json(f"{url}/bulk", [json.loads(body)] * 20, 10)[0] == 202
        shown = stack.run("status", code=1)
        assert "\npersist_worker is not ready: does not answer within 2 s\n" in shown
        assert "\norders.accepted: 20 orders in 1 message wait for their row, the oldest for " in shown
        assert json.loads(stack.run("status", "--json", code=1))["waiting"]["orders.accepted"]["orders"] == 20
        assert "\n20 orders accepted and not stored yet, the oldest for " in stack.run("verify")
    finally:
        os.kill(frozen, signal.SIGCONT)
    await eventually(lambda: stack.status()["waiting"]["orders.accepted"]["orders"] == 0, 20)


def test_doctor_tells_of_a_policy_that_removes_orders(stack: Stack) -> None:
    stack.up()
    assert "none of the broker's policies removes orders" in stack.run("doctor")


async def test_each_service_is_a_user_of_its_own_in_redis_which_refuses_it_nothing(stack: Stack) -> None:
    stack.up()
    status = stack.status()
    products = json.loads(get(f"{status['services']['product_api']['url']}/products", 5)[1])
    order = {"productId": products[0]["id"], "quantity": 1}
    status_code, _ = post_json(f"{status['services']['ingest_api']['url']}/api/v1/orders", order, 10)
    assert status_code == 202
    async with Redis.from_url(status["redis"]["url"]) as operator:
        users = {it["user"].partition("_")[2] for it in await operator.client_list()}
        assert users == {"ingest_api", "product_api", "product_consumer", ""}, "the last is our own, `default`"
        assert await refusals(operator) == []


def test_secrets_are_for_their_owner_alone(stack: Stack) -> None:
    stack.up()
    for file in (stack.home.credentials, stack.home.state, *stack.home.logs.glob("*.log")):
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
    password = json.loads(stack.home.credentials.read_text())["postgres"]
    assert not any(password in traces for traces in map(_arguments, Path("/proc").iterdir()))


def _arguments(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


def test_everything_listens_on_the_loopback_only(stack: Stack) -> None:
    stack.up()
    for name, port in json.loads(stack.home.state.read_text())["ports"].items():
        for table in ("tcp", "tcp6"):
            for address in _listening(table, port):
                assert address in ("0100007F", "0" * 24 + "01000000"), (name, port, address)


def _listening(table: str, port: int) -> list[str]:
    rows = [line.split() for line in Path("/proc/net", table).read_text().splitlines()[1:]]
    sockets = [row[1].split(":") for row in rows if row[3] == proc.LISTENING]
    return [address for address, number in sockets if int(number, 16) == port]


def test_the_demo_orders_baskets_and_accounts_for_their_lines(stack: Stack) -> None:
    stack.up()
    found = json.loads(stack.run("demo", "--orders", "200", "--clients", "8", "--lines", "3", "--json"))
    assert (found["sent"], found["lines"], found["lines_per_order"], found["half_baskets"]) == (200, 600, 3, 0)
    assert found["decided"] == found["accepted"] > 100
    assert 0 < found["processed"] < 200
    assert json.loads(stack.run("verify", "--json"))["clean"]


def test_the_demo_refuses_lines_that_no_order_can_have(stack: Stack) -> None:
    stack.up()
    assert "needs 3 different products" in stack.run("demo", "--lines", "3", "--products", "2", code=1)
    for lines in ("0", "51"):
        assert "--lines" in stack.run("demo", "--lines", lines, code=2)


def test_verify_audits_the_running_stack_and_repairs_only_what_has_no_verdict(stack: Stack) -> None:
    stack.up()
    stack.run("demo", "--orders", "200", "--clients", "8")
    report = json.loads(stack.run("verify", "--json"))
    assert report["clean"]
    assert report["counts"]["orders"] >= report["counts"]["processed"] > 0
    assert "0 orders resent\n" in stack.run("verify", "--repair", "--lag", "5")
