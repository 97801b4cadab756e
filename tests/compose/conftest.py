"""One stack in containers for all tests of a file, on ports and under a name of its own.

    ./headrace test compose

It needs a Docker engine, or root to start one. Images that the engine has are used; others are pulled, and where that
fails made from Debian's packages: images/make.sh.
"""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from stack.containers import containers
from stack.home.directory import Home
from tests.compose.composed import ComposeStack, compose_directory, is_engine_running, make_images, stop_engine
from tests.support.services.processes import free_port

_ELSEWHERE = ("COMPOSE_FILE", "DATABASE_URL", "AMQP_URL", "INGEST_API_URL", "PRODUCT_API_URL", "SECRETS_DIRECTORY")


def own_environment(home: Path) -> dict[str, str]:
    return {
        "HEADRACE_HOME": str(home),
        "COMPOSE_PROJECT_NAME": f"headrace-test-{os.getpid()}",
        "INGEST_API_PORT": str(free_port()),
        "PRODUCT_API_PORT": str(free_port()),
        # Use the engine's images; ask no registry.
        "HEADRACE_IMAGE": "headrace:test",
        # Ignore the caller's shell: the tests are about this stack only.
        **dict.fromkeys(_ELSEWHERE, ""),
    }


@pytest.fixture(scope="session")
def engine() -> Iterator[None]:
    """A Docker engine with all images. If it had to be started, it is stopped at the end."""
    was_running = is_engine_running()
    try:
        make_images()
        # For a machine without Compose.
        os.environ["PATH"] += f":{compose_directory()}"
        yield
    finally:
        if not was_running and is_engine_running():
            stop_engine()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def composed(
    request: pytest.FixtureRequest, engine: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ComposeStack]:
    """All ready, by the command that docs/quickstart.md names, for the tests of one file.

    A file that says `COMPOSE_FILE` has the stack of those files.
    """
    home = tmp_path_factory.mktemp("compose")
    environment = own_environment(home)
    if files := getattr(request.module, "COMPOSE_FILE", None):
        environment["COMPOSE_FILE"] = files
    composed = ComposeStack(environment)
    try:
        printed = await composed.headrace("up", "--docker", "--detach")
        assert "ready in" in printed
        yield composed
    finally:
        if containers.is_used(Home(home)):
            await composed.headrace("down", "--purge")
