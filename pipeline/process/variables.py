"""Read settings as text: from the environment, or from files that stand for it; and find names that nothing reads.

A secret may be a file instead: where SECRETS_DIRECTORY names a directory, what the environment does not hold is read
from the file of its name there, as containers are given them (`/run/secrets/AMQP_URL`). An environment is shown by
`docker inspect` and handed on to every child; a file is neither.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

DIRECTORY = "SECRETS_DIRECTORY"

# What Kubernetes and Docker set by themselves in a container that is near a service of such a name
# (`INGEST_API_SERVICE_HOST`, `PRODUCT_API_PORT_3000_TCP_ADDR`, `INGEST_API_ENV_PATH`).
_SET_BY_OTHERS = re.compile(
    r"(.*_)?SERVICE_HOST|(.*_)?SERVICE_PORT(_.*)?|(.*_)?PORT_[0-9]+_(TCP|UDP|SCTP)(_.*)?|NAME|ENV_.*"
)
_LINK = re.compile(r"(tcp|udp|sctp)://")
# Where a stack is that runs elsewhere: what ./headrace reads, beside the same prefix (stack.home.environment).
_OF_THE_COMMAND = {"URL"}


class WrongSettings(Exception):
    """Settings cannot be used. `problems`: a line for each, without a secret."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def check_text(name: str, text: str) -> str:
    """The text itself. Raises WrongSettings for what nobody means to write."""
    if not text:
        raise WrongSettings(f"{name}: is empty; give it a value, or remove it")
    if text != text.strip():
        raise WrongSettings(f"{name}: begins or ends with white space; remove it")
    if any(it < " " or it == "\x7f" for it in text):
        raise WrongSettings(f"{name}: holds a control character, such as a line break; remove it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise WrongSettings(f"{name}: holds bytes that are no UTF-8 text") from None
    return text


def unknown_names(names: Mapping[str, str], prefix: str, known: Collection[str]) -> Iterator[str]:
    """What to tell of each name that begins with `prefix`, and that nothing reads. `names`: with their values."""
    for name in sorted(names):
        upper = name.upper()
        rest = upper.removeprefix(prefix)
        if rest == upper or upper in known or rest in _OF_THE_COMMAND:
            continue
        if _SET_BY_OTHERS.fullmatch(rest) or (rest.endswith("_PORT") and _LINK.match(names[name])):
            continue
        near = get_close_matches(upper, known, n=1, cutoff=0.7)
        meant = f"did you mean {near[0]}?" if near else f"nothing of this name begins with {prefix}"
        yield f"{name}: is not a setting; {meant}"


# ── I/O below


def read_variables(names: Iterable[str]) -> dict[str, str]:
    """The values of those names that have one. Raises WrongSettings."""
    files = secret_files()
    environment = _by_upper(os.environ)
    values: dict[str, str] = {}
    problems: list[str] = []
    for name in names:
        try:
            if name in environment:
                values[name] = check_text(name, environment[name])
            elif name in files:
                values[name] = check_text(name, _read(name, files[name]))
        except WrongSettings as error:
            problems += error.problems
    if problems:
        raise WrongSettings(*problems)
    return values


def secret_files() -> dict[str, Path]:
    """The files of SECRETS_DIRECTORY by the setting that each is named after. Raises WrongSettings."""
    directory = os.environ.get(DIRECTORY)
    if not directory:
        return {}
    try:
        return {path.name.upper(): path for path in Path(directory).iterdir()}
    except (NotADirectoryError, FileNotFoundError):
        why = "is not a directory"
    except (OSError, ValueError) as error:
        why = f"cannot be read: {getattr(error, 'strerror', None) or 'no path'}"
    raise WrongSettings(f"{DIRECTORY}: {directory} {why}")


def _by_upper(environment: Mapping[str, str]) -> dict[str, str]:
    """Names in any case, as settings were always read; the exact one goes before the others."""
    others = {name.upper(): value for name, value in environment.items() if name != name.upper()}
    return others | {name: value for name, value in environment.items() if name == name.upper()}


def _read(name: str, path: Path) -> str:
    """A file's text without the white space around it: editors and `echo` end it with a line break."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise WrongSettings(f"{name}: {path} holds bytes that are no UTF-8 text") from None
    except OSError as error:
        raise WrongSettings(f"{name}: {path} cannot be read: {error.strerror}") from None
