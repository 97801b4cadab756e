"""The state directory: paths of all files of a stack, the lock that a running stack holds, and the purge."""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import hashlib
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from stack.errors import HeadraceError
from stack.process import proc

ROOT = Path(__file__).resolve().parents[2]
# The container image has it too. Where pip has installed Headrace, it is missing.
IS_CHECKOUT = (ROOT / "pyproject.toml").exists()
DEFAULT = ROOT / ".headrace" if IS_CHECKOUT else Path.home() / ".headrace"
# State directories of `test` and `servers`, below the stack's own.
TEST_RUNS = ("test-*", "servers")
# Marks a directory as Headrace's, and says whether Headrace created it. The script `headrace` writes it as well.
MARKER = "headrace-home"
MADE = "made by ./headrace\n"
FOUND = "was there, and empty, when ./headrace began to use it\n"
# All that Headrace creates in a state directory, and all that a purge deletes. Temporary files: see write_private.
_FILES = ("api-keys.json", "credentials.json", "own-api-key", "state.json", "containers", "containers-stopped")
OWN = (
    *(MARKER, "lock", "api-keys.lock", "logs", "postgres", "rabbitmq", "redis", *_FILES),
    *(f".{name}.*" for name in _FILES),
)
FALLBACK_BASE = Path("/var/tmp")  # noqa: S108 - `make_fallback` checks its owner


@dataclass(frozen=True)
class Home:
    """The paths of one state directory (`.headrace/` in the checkout, or HEADRACE_HOME)."""

    path: Path

    @classmethod
    def current(cls) -> Home:
        return cls(Path(os.environ.get("HEADRACE_HOME") or DEFAULT).absolute())

    @property
    def credentials(self) -> Path:
        return self.path / "credentials.json"

    @property
    def api_keys(self) -> Path:
        """The file of API keys that both APIs read. It holds hashes instead of secrets."""
        return self.path / "api-keys.json"

    @property
    def own_api_key(self) -> Path:
        """The token of the stack's own key."""
        return self.path / "own-api-key"

    @property
    def state(self) -> Path:
        return self.path / "state.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def fallback(self) -> Path:
        """Where a server's data goes if its user cannot reach `path`. Unique for this user and this path."""
        digest = hashlib.sha256(str(self.path).encode()).hexdigest()[:12]
        return FALLBACK_BASE / f"headrace-{os.getuid()}-{digest}"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def create(self) -> None:
        """Create the directories. Mode 0711 lets the servers' users pass through, but not list them.

        Raises HeadraceError, also for a directory with foreign files: a purge could not tell them from ours.
        """
        try:
            self._claim()
            for directory, mode in ((self.path, 0o711), (self.logs, 0o700)):
                directory.mkdir(mode=mode, parents=True, exist_ok=True)
                directory.chmod(mode)
        except OSError as error:
            raise HeadraceError(
                f"cannot write the state directory {self.path}",
                error.strerror or str(error),
                "HEADRACE_HOME=/a/writable/directory ./headrace up",
            ) from error

    def _claim(self) -> None:
        """Create and mark the directory, or mark an empty one."""
        with contextlib.suppress(FileExistsError):
            self.path.mkdir(mode=0o711, parents=True)
            self._mark(MADE)
        if (self.path / MARKER).exists():
            return
        if not self.path.is_dir():
            raise self._not_ours()
        if not any(self.path.iterdir()):
            with contextlib.suppress(FileExistsError):
                self._mark(FOUND, os.O_EXCL)
        elif self.is_ours():
            self._mark(MADE)
        else:
            raise self._not_ours()

    def _mark(self, text: str, flag: int = os.O_TRUNC) -> None:
        with os.fdopen(os.open(self.path / MARKER, os.O_WRONLY | os.O_CREAT | flag, 0o600), "w") as marker:
            marker.write(text)

    def is_ours(self) -> bool:
        """Whether the directory is Headrace's: it is marked, or holds the files of a version without marks."""
        if not self.path.is_dir():
            return False
        if (self.path / MARKER).is_file() or self.path == DEFAULT:
            return True
        has_files = any((self.path / name).is_file() for name in ("lock", *_FILES))
        return has_files and (self.path / "logs").is_dir() and not self.strangers()

    def can_be_used(self) -> bool:
        """Whether `create` would accept this existing directory."""
        return self.is_ours() or (self.path.is_dir() and not any(self.path.iterdir()))

    def strangers(self) -> list[Path]:
        """Foreign files in the directory, among them directories that are only named like a test run."""
        return sorted(it for it in self.path.iterdir() if not _is_own(it))

    def check_ours(self) -> None:
        """Raise HeadraceError if this is not Headrace's directory."""
        if not self.is_ours():
            raise self._not_ours()

    def _not_ours(self) -> HeadraceError:
        if not self.path.is_dir():
            return HeadraceError(
                f"{self.path} is not a directory",
                "HEADRACE_HOME names it",
                "HEADRACE_HOME=/a/new/directory ./headrace up",
            )
        return HeadraceError(
            f"{self.path} is not a state directory of Headrace",
            "it holds files and Headrace did not create it, so it was left untouched",
            "correct HEADRACE_HOME: name Headrace's directory, a new one, or an empty one",
        )

    def purge(self, *, but: tuple[str, ...] = ()) -> list[Home]:
        """Delete Headrace's files in the state directory and the fallback, and the directory if Headrace created it.

        The caller holds the lock, or nobody does. Keeps the names in `but`, foreign files, and test runs that still
        run; returns those runs. Raises HeadraceError, and deletes nothing, if the directory is not Headrace's.
        """
        self.check_ours()
        is_made = not (self.path / MARKER).exists() or (self.path / MARKER).read_text() == MADE
        kept = [run for run in self.test_runs() if run.is_held()]
        for run in self.test_runs():
            if run not in kept:
                run.purge()
        if self.fallback.exists() and _is_private(self.fallback):
            shutil.rmtree(self.fallback)
        strangers = self.strangers()
        stay = {MARKER, *but, *(it.name for it in strangers), *(run.path.name for run in kept)}
        for entry in self.path.iterdir():
            if entry.name not in stay:
                _remove(entry)
        if stay == {MARKER}:
            _remove(self.path / MARKER)
            if is_made and not self.path.is_symlink():
                with contextlib.suppress(OSError):
                    self.path.rmdir()
        return kept

    def test_runs(self) -> list[Home]:
        """The state directories of test runs below this one, running or not."""
        runs = [Home(path) for pattern in TEST_RUNS for path in self.path.glob(pattern)]
        return [run for run in runs if run.is_ours()]

    def try_lock(self) -> int | None:
        """Take the lock that a running stack holds for its whole life. None if another process has it.

        The descriptor is the lock, and children inherit it by fork. So while it is held, a process of that stack runs,
        whatever the state file says.
        """
        while True:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            if _same_file(descriptor, self.lock):
                return descriptor
            os.close(descriptor)  # a purge deleted this file between open and flock; the path is another file now

    def sign(self, descriptor: int) -> None:
        """Write this process's identity into the lock, for `holder`."""
        pid, started = proc.identify(os.getpid())
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{pid} {started}\n".encode(), 0)

    def holder(self) -> int | None:
        """The pid of the living keeper that signed the lock. Unlike the state file, it is never out of date."""
        try:
            pid, started = map(int, self.lock.read_text().split())
        except (OSError, ValueError):
            return None
        return pid if pid > 1 and proc.is_alive(pid, started) else None

    def is_held(self) -> bool:
        """Whether a stack starts, runs or stops in this directory."""
        if not self.lock.exists():
            return False
        try:
            descriptor = self.try_lock()
        except OSError:
            return False
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is None

    def make_fallback(self) -> Path:
        """Create the fallback directory if needed. Raises HeadraceError if another user created it."""
        with contextlib.suppress(FileExistsError):
            self.fallback.mkdir(mode=0o711)
        if not _is_private(self.fallback):
            raise HeadraceError(
                f"{self.fallback} exists and is not private",
                "another user created it, or others may write into it",
                "move the checkout where the users postgres, rabbitmq and redis can reach it, or delete that directory",
            )
        self.fallback.chmod(0o711)
        return self.fallback


def require_checkout(command: str) -> None:
    """Raise HeadraceError where pip has installed Headrace. `command` needs files that only the repository has."""
    if not IS_CHECKOUT:
        raise HeadraceError(
            f"`{command}` needs a clone of the repository",
            "pip installs the services and this command, without tests, benchmarks, documents and docker-compose.yml",
            f"in a clone: ./headrace {command}",
        )


def _is_own(entry: Path) -> bool:
    if any(fnmatch.fnmatch(entry.name, pattern) for pattern in TEST_RUNS):
        return Home(entry).is_ours() or (entry.is_dir() and not any(entry.iterdir()))
    return any(fnmatch.fnmatch(entry.name, own) for own in OWN)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            entry.unlink()


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_private(directory: Path) -> bool:
    """Whether it is a real directory of ours that only we may write into: anyone can plant a name in /var/tmp."""
    found = directory.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
