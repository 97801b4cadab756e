"""A state directory for the tests of a module, and the stack that runs on it."""

from collections.abc import Iterator

import pytest

from tests.support.services.command import Stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("stack") / "home")
    yield stack
    stack.run("down", "--purge")
    assert not stack.home.path.exists()
    assert not stack.home.fallback.exists()
