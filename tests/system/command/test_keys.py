"""API keys on the running stack: the next command may use a new key, and the stack goes on working with its own."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.home.directory import ROOT
from stack.process.http import get, post_json
from tests.support.services.command import ENVIRONMENT, Stack
from tests.support.time.conditions import eventually


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("keys") / "home")
    stack.up()
    yield stack
    stack.run("down", "--purge")
    assert not stack.home.api_keys.exists()


def add(stack: Stack, client: str, *scopes: str) -> str:
    """Run `keys add`. Returns the token, as a shell's KEY=$(…) would get it."""
    options = [word for scope in scopes for word in ("--scope", scope)]
    command = [str(ROOT / "headrace"), "keys", "add", client, *options]
    environment = {**ENVIRONMENT, "HEADRACE_HOME": str(stack.home.path)}
    return subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, check=True).stdout.strip()


def orders_url(stack: Stack) -> str:
    return f"{stack.status()['services']['ingest_api']['url']}/api/v1/orders"


def product_ids(stack: Stack, token: str) -> list[str]:
    """Ids of products in stock, because the demo sells some out."""
    status, body = get(f"{stack.status()['services']['product_api']['url']}/products", 5, token)
    assert status == 200
    return [product["id"] for product in json.loads(body) if product["qty"] > 0]


async def test_keys_come_and_go_on_the_running_stack(stack: Stack) -> None:
    ingest_api = stack.status()["services"]["ingest_api"]["url"]
    assert get(f"{ingest_api}/health", 5)[0] == 200
    assert "no API keys: open to everybody on 127.0.0.1" in stack.home.log("ingest_api").read_text()
    token = add(stack, "shop", "orders:write")
    order = {"productId": product_ids(stack, token)[0], "quantity": 1}
    assert post_json(orders_url(stack), order, 10)[0] == 401
    assert post_json(orders_url(stack), order, 10, token)[0] == 202
    stack.run("keys", "revoke", token[3:15])
    await eventually(lambda: post_json(orders_url(stack), order, 10, token)[0] == 401)


def test_with_keys_the_stacks_own_commands_go_on_working(stack: Stack) -> None:
    add(stack, "shop", "orders:write")
    account = json.loads(stack.run("demo", "--orders", "500", "--clients", "8", "--json").splitlines()[-1])
    assert (account["accepted"] + account["refused"], account["lost"]) == (500, 0)
    assert account["accepted"] > 400
    assert stack.run("status").startswith("headrace is running\n")
    assert "`up` would only print" in stack.run("doctor")


def test_with_keys_the_printed_lines_work_when_pasted(stack: Stack) -> None:
    add(stack, "shop", "orders:write")
    shown = stack.up()
    lines = [line.removeprefix("           ") for line in shown.splitlines() if "$KEY" in line or "KEY=$(" in line]
    assert len(lines) == 2
    script = "\n".join(lines).replace("curl -s", "curl -s -w '\\n%{http_code}'")
    environment = {**ENVIRONMENT, "HEADRACE_HOME": str(stack.home.path)}
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, env=environment, text=True, capture_output=True, check=True)
    assert done.stdout.endswith("\n202"), done
    assert not re.search("hr_[0-9a-f]{12}_", shown), "no token is printed but by `keys add`"


def test_with_keys_the_stack_starts_again_and_plants_its_products(stack: Stack) -> None:
    token = add(stack, "shop", "orders:write")
    stack.run("down")
    assert "there are products already" in stack.up()
    order = {"productId": product_ids(stack, token)[0], "quantity": 1}
    assert post_json(orders_url(stack), order, 10)[0] == 401
    assert post_json(orders_url(stack), order, 10, token)[0] == 202


async def test_a_service_that_comes_back_without_its_key_file_lets_nobody_in(stack: Stack) -> None:
    token = add(stack, "shop", "orders:write")
    order = {"productId": product_ids(stack, token)[0], "quantity": 1}
    url, log = orders_url(stack), stack.home.log("ingest_api")
    kept = stack.home.api_keys.read_bytes()
    stack.home.api_keys.unlink()
    os.kill(stack.status()["services"]["ingest_api"]["pid"], signal.SIGKILL)
    await eventually(lambda: "api-keys.json is not there" in log.read_text(), timeout_s=30)
    assert answers(url, order, None) is None
    stack.home.api_keys.write_bytes(kept)
    await eventually(lambda: answers(url, order, None) == 401, timeout_s=60)
    await eventually(lambda: answers(url, order, token) == 202)


def answers(url: str, order: dict[str, object], token: str | None) -> int | None:
    """The status of an answer; None while nothing listens."""
    try:
        return post_json(url, order, 10, token)[0]
    except OSError:
        return None


def test_a_stack_whose_key_file_is_gone_does_not_start(stack: Stack) -> None:
    token = add(stack, "shop", "orders:write")
    stack.run("down")
    kept = stack.home.api_keys.read_bytes()
    stack.home.api_keys.unlink()
    assert "are gone" in stack.run("up", "-d", code=1)
    assert not stack.home.api_keys.exists()
    stack.home.api_keys.write_bytes(kept)
    stack.up()
    assert product_ids(stack, token)


def test_only_after_keys_open_the_stack_starts_open_again(stack: Stack) -> None:
    token = add(stack, "shop", "orders:write")
    assert "the stack is running" in stack.run("keys", "open", code=1)
    order = {"productId": product_ids(stack, token)[0], "quantity": 1}
    stack.run("down")
    stack.run("keys", "open")
    shown = stack.up()
    assert "$KEY" not in shown
    assert post_json(orders_url(stack), order, 10)[0] == 202


def test_keys_that_are_made_before_the_first_up_are_heeded_from_the_start(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "home")
    token = add(stack, "shop", "orders:write")
    try:
        assert "2 demo products" in stack.up()
        order = {"productId": product_ids(stack, token)[0], "quantity": 1}
        assert post_json(orders_url(stack), order, 10)[0] == 401
        assert post_json(orders_url(stack), order, 10, token)[0] == 202
    finally:
        stack.run("down", "--purge")
