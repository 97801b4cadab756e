"""The state directory: where everything that a running stack leaves on disk lies, and who holds it."""

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
# Directories below a state directory that are state directories themselves: those of `test` and of `servers`.
TEST_RUNS = ("test-*", "servers")
# Says that the directory is Headrace's, and whether Headrace made it. `headrace` (the script) writes it as well.
MARKER = "headrace-home"
MADE = "made by ./headrace\n"
FOUND = "was there, and empty, when ./headrace began to use it\n"
# All that Headrace puts into a state directory, and all that a purge removes. Temporary files: see write_private.
_FILES = ("api-keys.json", "credentials.json", "own-api-key", "state.json", "containers", "containers-stopped")
OWN = (
    *(MARKER, "lock", "api-keys.lock", "logs", "postgres", "rabbitmq", "redis", *_FILES),
    *(f".{name}.*" for name in _FILES),
)
FALLBACK_BASE = Path("/var/tmp")  # noqa: S108 - `make_fallback` checks who owns what it finds there


@dataclass(frozen=True)
class Home:
    """Paths under one state directory: HEADRACE_HOME, or `.headrace/` beside the code or in the home directory."""

    path: Path

    @classmethod
    def current(cls) -> Home:
        return cls(Path(os.environ.get("HEADRACE_HOME") or DEFAULT).absolute())

    @property
    def credentials(self) -> Path:
        return self.path / "credentials.json"

    @property
    def api_keys(self) -> Path:
        """What the two APIs read: who may do what, with hashes instead of secrets."""
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
        """Where server data goes when the server's user cannot reach `path`: private to this user and this path."""
        digest = hashlib.sha256(str(self.path).encode()).hexdigest()[:12]
        return FALLBACK_BASE / f"headrace-{os.getuid()}-{digest}"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def create(self) -> None:
        """Make the directories. 0711: the servers' users pass through, and nobody lists. Raises HeadraceError, also for
        a directory that holds files of somebody else: a purge could not tell whose is what.
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
        """Make the directory, or take one that is empty, and mark it."""
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
        """Whether Headrace uses this directory: it is marked, or holds what Headrace left before there were marks."""
        if not self.path.is_dir():
            return False
        if (self.path / MARKER).is_file() or self.path == DEFAULT:
            return True
        has_files = any((self.path / name).is_file() for name in ("lock", *_FILES))
        return has_files and (self.path / "logs").is_dir() and not self.strangers()

    def can_be_used(self) -> bool:
        """Whether `create` would take this directory, which exists."""
        return self.is_ours() or (self.path.is_dir() and not any(self.path.iterdir()))

    def strangers(self) -> list[Path]:
        """What is in this directory and not Headrace's. A directory that is only called like a test run is none."""
        return sorted(it for it in self.path.iterdir() if not _is_own(it))

    def check_ours(self) -> None:
        """Raise HeadraceError for a directory that is not Headrace's, and for what is no directory."""
        if not self.is_ours():
            raise self._not_ours()

    def _not_ours(self) -> HeadraceError:
        if not self.path.is_dir():
            return HeadraceError(
                f"{self.path} is no directory", "HEADRACE_HOME names it", "HEADRACE_HOME=/a/new/directory ./headrace up"
            )
        return HeadraceError(
            f"{self.path} is not a state directory of Headrace",
            "it holds files, and Headrace did not make it, so nothing in it is touched",
            "correct HEADRACE_HOME: it names a directory of Headrace, a new one, or an empty one",
        )

    def purge(self, *, but: tuple[str, ...] = ()) -> list[Home]:
        """Remove what Headrace put into the state directory and the fallback, and the directory if Headrace made it and
        nothing else is in it. Only for the holder of the lock, or when nobody holds it.

        Test runs below it that still run are kept, and returned; so is what has a name in `but`. Raises HeadraceError,
        and removes nothing, when the directory is not Headrace's.
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
        """The state directories of test runs, living and dead, below this one."""
        runs = [Home(path) for pattern in TEST_RUNS for path in self.path.glob(pattern)]
        return [run for run in runs if run.is_ours()]

    def try_lock(self) -> int | None:
        """Take the lock that a running stack holds for its whole life; None when another process has it.

        The descriptor is the lock: it goes when the last process that inherited it by fork is gone, so a held lock
        means that something of that stack still runs, whatever the state file says.
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
            os.close(descriptor)  # a purge removed this file between open and flock: the name means another one now

    def sign(self, descriptor: int) -> None:
        """Write into the lock who we are, for `holder`."""
        pid, started = proc.identify(os.getpid())
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{pid} {started}\n".encode(), 0)

    def holder(self) -> int | None:
        """The pid of the keeper that signed the lock and lives; unlike the state file, this is never out of date."""
        try:
            pid, started = map(int, self.lock.read_text().split())
        except (OSError, ValueError):
            return None
        return pid if pid > 1 and proc.is_alive(pid, started) else None

    def is_held(self) -> bool:
        """Whether a stack runs (or starts, or stops) on this directory."""
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
        """The fallback directory, made on first use. Raises HeadraceError when somebody else has put one there."""
        with contextlib.suppress(FileExistsError):
            self.fallback.mkdir(mode=0o711)
        if not _is_private(self.fallback):
            raise HeadraceError(
                f"{self.fallback} exists and is not ours",
                "another user made it, or others may write into it",
                "move the checkout where the users postgres, rabbitmq and redis can reach it, or remove that directory",
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
    """A real directory of ours that nobody else may write into (in a shared place anyone can plant a name)."""
    found = directory.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
