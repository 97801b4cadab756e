"""The documents' requests and client work as written; only addresses and product ids are replaced."""

import asyncio
import json
import os
import re
import subprocess
import sys

import pytest

from pipeline.contract.fields import EXAMPLE_PRODUCT
from tests.support.data.samples import samples
from tests.support.services.deployment import Deployment

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS = sorted({command for it in samples("sh") for command in it.commands() if command.startswith("curl ")})
SCRIPTS = [it.text for it in samples("bash")]
(CLIENT,) = [it for it in samples("python") if it.document == "docs/api/retries.md"]


def put_in(deployment: Deployment, sample: str, product_id: str) -> str:
    for name, port in (("product_api", 3000), ("ingest_api", 8080)):
        sample = sample.replace(f"localhost:{port}", deployment.url(name).removeprefix("http://"))
    return re.sub(rf"\bID\b|{EXAMPLE_PRODUCT}", product_id, sample)


def run(command: list[str], text: str | None = None) -> str:
    environment = {**os.environ, "NO_PROXY": "*"}
    done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda it: it[:60])
async def test_a_request_of_the_documents_is_answered(deployment: Deployment, request_: str) -> None:
    product_id = await deployment.create_product(100)
    script = f'curl() {{ command curl --fail-with-body "$@"; }}; {put_in(deployment, request_, product_id)}'
    json.loads(await asyncio.to_thread(run, ["sh", "-c", script]))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda it: it[:60])
async def test_a_script_of_the_documents_succeeds(deployment: Deployment, script: str) -> None:
    product_id = await deployment.create_product(100)
    text = put_in(deployment, script, product_id)
    await asyncio.to_thread(run, ["bash", "-euo", "pipefail", "-c", text])


async def test_the_client_of_the_documents_orders_and_waits_for_the_verdict(deployment: Deployment) -> None:
    product_id = await deployment.create_product(100)
    text = put_in(deployment, CLIENT.text, product_id)
    printed = await asyncio.to_thread(run, [sys.executable, "-"], text)
    assert "'status': 'PROCESSED'" in printed
    assert (await deployment.product(product_id))["qty"] == 98
