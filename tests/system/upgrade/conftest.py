"""The release before, unpacked."""

from pathlib import Path

import pytest

from tests.support.services.previous_release import write_to


@pytest.fixture(scope="session")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory from which `python -m persist_worker` is that of the release before."""
    return write_to(tmp_path_factory.mktemp("previous_release"))
