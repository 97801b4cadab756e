"""Under root, services run as another user if that user can run them. If not, `up` says so."""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.home.directory import ROOT
from stack.process.http import get, post_json
from stack.process.identity import services_identity
from tests.support.services.command import ENVIRONMENT, SERVICES, Stack
from tests.support.time.conditions import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="who is not root runs all as himself")

PYTHON = "/usr/bin/python3"
# Files that no checkout has, or that are large and not needed.
_LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".headrace", "__pycache__", ".*_cache", "tests", "benchmarks")


def users_of(stack: Stack) -> dict[str, int]:
    found = {}
    for name, service in stack.status()["services"].items():
        status = Path(f"/proc/{service['pid']}/status").read_text()
        ids = re.findall(r"^Uid:\t(\d+)\t(\d+)\t(\d+)\t(\d+)$", status, re.MULTILINE)[0]
        assert len(set(ids)) == 1, "real, effective, saved and file-system user"
        found[name] = int(ids[0])
    return found


def test_where_the_user_cannot_read_all_services_run_as_root_and_up_says_why(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    stack = Stack(tmp_path / "closed" / "home")
    try:
        shown = stack.up()
        assert re.search(r"^  \S services run as root: \w+ cannot read /\S+; \w.* \d+\.\d s$", shown, re.MULTILINE), (
            shown
        )
        assert users_of(stack) == dict.fromkeys(SERVICES, 0)
    finally:
        stack.run("down", "--purge")


@pytest.fixture
def open_checkout() -> Iterator[Path]:
    """A copy of this checkout that every user can read, with Debian's Python in `.venv`."""
    if not shutil.which("apt-get") or subprocess.run([PYTHON, "-c", "import venv, ensurepip"], check=False).returncode:
        pytest.skip(f"{PYTHON} is not Debian's, or cannot make a virtual environment")
    directory = Path(tempfile.mkdtemp(prefix="headrace-open-", dir="/var/tmp"))
    try:
        directory.chmod(0o755)
        copy = directory / "headrace"
        shutil.copytree(ROOT, copy, ignore=_LEFT_OUT)
        environment = {**ENVIRONMENT, "HEADRACE_PYTHON": PYTHON, "HEADRACE_HOME": str(directory / "home")}
        subprocess.run(
            [copy / "headrace", "--help"], env=environment, check=True, timeout=300, stdout=subprocess.DEVNULL
        )
        yield copy
    finally:
        shutil.rmtree(directory)


def low_port() -> int:
    """A free port that only root may listen on."""
    for port in range(1023, 900, -1):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    pytest.skip("no port below 1024 is free")


@pytest.mark.deep
@pytest.mark.timeout(600)
async def test_services_run_as_another_user_do_all_their_work_and_heed_new_keys(open_checkout: Path) -> None:
    services, stack = services_identity(), Stack(open_checkout.parent / "home", open_checkout)
    assert services
    port = low_port()
    try:
        shown = stack.run("up", "-d", INGEST_API_PORT=str(port))
        assert f"services run as {services.name} " in shown
        assert f"ingest_api on 127.0.0.1:{port} " in shown
        assert users_of(stack) == dict.fromkeys(SERVICES, services.uid)
        account = json.loads(stack.run("demo", "--orders", "300", "--json").splitlines()[-1])
        assert (account["accepted"] + account["refused"], account["lost"]) == (300, 0)
        assert "nothing lost, nothing duplicated, nothing oversold" in stack.run("verify")
        urls = {name: service["url"] for name, service in stack.status()["services"].items()}
        products = json.loads(get(f"{urls['product_api']}/products", 5)[1])
        order = {"productId": next(it["id"] for it in products if it["qty"] > 0), "quantity": 1}
        orders = f"{urls['ingest_api']}/api/v1/orders"
        token = re.findall("hr_[0-9a-f]{12}_[0-9a-f]{64}", stack.run("keys", "add", "shop", "--scope", "orders:write"))[
            0
        ]
        await eventually(lambda: post_json(orders, order, 10)[0] == 401)
        assert post_json(orders, order, 10, token)[0] == 202
        stack.run("keys", "revoke", token[3:15])
        await eventually(lambda: post_json(orders, order, 10, token)[0] == 401)
    finally:
        stack.run("down", "--purge")
    assert stack.processes() == []
