"""Reads settings as text, from the environment or from secret files, and finds misspelt names.

A setting that the environment lacks is read from the file of its name in SECRETS_DIRECTORY, if that names a directory.
Containers get secrets that way (`/run/secrets/AMQP_URL`). `docker inspect` shows an environment, and every child
process inherits it; neither is true of a file.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

DIRECTORY = "SECRETS_DIRECTORY"

# Variables that Kubernetes and Docker set in a container next to a service of such a name
# (`INGEST_API_SERVICE_HOST`, `PRODUCT_API_PORT_3000_TCP_ADDR`, `INGEST_API_ENV_PATH`).
_SET_BY_OTHERS = re.compile(
    r"(.*_)?SERVICE_HOST|(.*_)?SERVICE_PORT(_.*)?|(.*_)?PORT_[0-9]+_(TCP|UDP|SCTP)(_.*)?|NAME|ENV_.*"
)
_LINK = re.compile(r"(tcp|udp|sctp)://")
# The address of a stack that runs elsewhere, which ./headrace reads under the same prefix (stack.home.environment).
_OF_THE_COMMAND = {"URL"}


class WrongSettings(Exception):
    """Unusable settings. `problems`: a line for each, without a secret."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def check_text(name: str, text: str) -> str:
    """Return the text unchanged. Raises WrongSettings for text that nobody can have meant."""
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
    """A message for each name that begins with `prefix` and that nothing reads. `names`: with their values."""
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
    """The values of the names that are set. Raises WrongSettings."""
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
    """The files of SECRETS_DIRECTORY, by the setting that each holds. Raises WrongSettings."""
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
    """Variables by upper-case name: names may have any case, and the exact one takes precedence."""
    others = {name.upper(): value for name, value in environment.items() if name != name.upper()}
    return others | {name: value for name, value in environment.items() if name == name.upper()}


def _read(name: str, path: Path) -> str:
    """A file's text, without the white space around it: editors and `echo` end a file with a line break."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise WrongSettings(f"{name}: {path} holds bytes that are no UTF-8 text") from None
    except OSError as error:
        raise WrongSettings(f"{name}: {path} cannot be read: {error.strerror}") from None
