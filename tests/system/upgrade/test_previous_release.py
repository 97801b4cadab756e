"""The archive is what was released, and not what somebody made of it."""

import pytest

from tests.support.services.previous_release import ARCHIVE, COMMIT, files_of_commit, unpack


def test_the_archive_holds_the_files_of_its_commit() -> None:
    files = files_of_commit()
    if files is None:
        pytest.skip(f"this checkout has no history back to {COMMIT}, as a shallow clone")
    assert unpack(ARCHIVE.read_bytes()) == files
