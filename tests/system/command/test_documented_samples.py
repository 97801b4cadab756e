"""The documents' requests and client work as written; only addresses and product ids are replaced."""

import asyncio
import json
import os
import re
import subprocess
import sys

import pytest

from pipeline.contract.fields import EXAMPLE_OTHER_PRODUCT, EXAMPLE_PRODUCT
from tests.support.data.samples import samples
from tests.support.services.deployment import Deployment

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS = sorted({command for it in samples("sh") for command in it.commands() if command.startswith("curl ")})
SCRIPTS = [it.text for it in samples("bash")]
(CLIENT,) = [it for it in samples("python") if it.document == "docs/api/retries.md"]


async def put_in(deployment: Deployment, sample: str) -> tuple[str, str]:
    """The sample with the addresses of the deployment and products of its own; and the first of these."""
    product_id, other = [await deployment.create_product(100) for _ in range(2)]
    for name, port in (("product_api", 3000), ("ingest_api", 8080)):
        sample = sample.replace(f"localhost:{port}", deployment.url(name).removeprefix("http://"))
    sample = sample.replace(EXAMPLE_OTHER_PRODUCT, other)
    return re.sub(rf"\bID\b|{EXAMPLE_PRODUCT}", product_id, sample), product_id


def run(command: list[str], text: str | None = None) -> str:
    environment = {**os.environ, "NO_PROXY": "*"}
    done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda it: it[:60])
async def test_a_request_of_the_documents_is_answered(deployment: Deployment, request_: str) -> None:
    sample, _ = await put_in(deployment, request_)
    script = f'curl() {{ command curl --fail-with-body "$@"; }}; {sample}'
    json.loads(await asyncio.to_thread(run, ["sh", "-c", script]))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda it: it[:60])
async def test_a_script_of_the_documents_succeeds(deployment: Deployment, script: str) -> None:
    text, _ = await put_in(deployment, script)
    await asyncio.to_thread(run, ["bash", "-euo", "pipefail", "-c", text])


async def test_the_client_of_the_documents_orders_waits_for_the_verdict_and_cancels(deployment: Deployment) -> None:
    text, product_id = await put_in(deployment, CLIENT.text)
    processed, cancelled = (await asyncio.to_thread(run, [sys.executable, "-"], text)).splitlines()
    assert "'status': 'PROCESSED'" in processed
    assert "'status': 'CANCELLED'" in cancelled
    assert (await deployment.product(product_id))["qty"] == 100
