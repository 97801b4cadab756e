"""The services of the release before, to run beside those of this checkout.

Their source is an archive in the repository, not `git archive` at the time of the test: a shallow clone and a source
tarball have no history. After a release, set RELEASE and COMMIT, delete the old archive, and make the next:

    python -m tests.support.services.previous_release
"""

import io
import subprocess
import tarfile
from pathlib import Path

from tests.support.services.processes import ROOT

RELEASE = "0.2.0"
COMMIT = "85c87dffe708189255d738a470faf1e1ae7d1f30"
"""Whose changelog has the heading of RELEASE."""
ARCHIVE = ROOT / "tests" / "system" / "upgrade" / f"headrace-{RELEASE}.tar.xz"
_PACKAGES = (
    "pipeline",
    "web",
    "database",
    "migrations",
    "ingest_api",
    "persist_worker",
    "product_consumer",
    "product_api",
    "pyproject.toml",
)
# Half a megabyte that is not ours: an API reads it at its start, and takes that of this checkout.
_VENDOR = "web/documents/vendor"

Files = dict[str, bytes]
"""Path → content."""


def pack(files: Files) -> bytes:
    """A .tar.xz that is the same whenever it is made."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz", preset=9) as archive:
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def unpack(packed: bytes) -> Files:
    """The files of a tar archive, without what is vendored."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        found = {it.name: archive.extractfile(it) for it in archive}
        return {name: file.read() for name, file in found.items() if file and not name.startswith(_VENDOR)}


# ── I/O below


def write_to(directory: Path) -> Path:
    """Write the release's source into `directory`, for `python -m` to run there. Returns the directory."""
    for name, content in unpack(ARCHIVE.read_bytes()).items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (directory / _VENDOR).symlink_to(ROOT / _VENDOR)
    return directory


def files_of_commit() -> Files | None:
    """The same files, from the history. None if this checkout has no such commit: it may have no history at all."""
    git = ["git", "-C", str(ROOT), "archive", "--format=tar", COMMIT, *_PACKAGES]
    try:
        done = subprocess.run(git, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return unpack(done.stdout) if done.returncode == 0 else None


def main() -> None:
    files = files_of_commit()
    assert files is not None, f"no commit {COMMIT} here: git fetch --unshallow"
    ARCHIVE.write_bytes(pack(files))
    print(f"{ARCHIVE.relative_to(ROOT)}: {len(files)} files, {ARCHIVE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
