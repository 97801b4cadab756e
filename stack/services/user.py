"""Chooses the user of the services when root starts them: another user, if it can read all that they need.

That is the account `headrace` if the machine has one, else `nobody`; `up` creates no account. A user that cannot read
Python, the checkout, or a file that the settings name could run no service. Then they run as root, and `up` says why.
"""

from __future__ import annotations

import compileall
import pwd
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from stack.home.directory import ROOT, Home
from stack.home.environment import VARIABLES
from stack.home.state import SERVICES
from stack.process.identity import Identity, wrap

# The packages that the services import from the checkout.
CODE = tuple(ROOT / name for name in ("database", "migrations", "pipeline", "web", *SERVICES))
# Variables from which the services' libraries take the path of a file or directory.
_PATHS = ("SECRETS_DIRECTORY", "SSL_CERT_FILE", "SSL_CERT_DIR", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL")
_LOW_PORTS_END = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
# Time for a slow disk to read Python; a disk that hangs is not waited for.
TRIAL_S = 30.0
# Prints its first argument that the user cannot use: a directory it cannot enter, or a file it cannot read.
_WAY = 'for it do if [ -d "$it" ]; then [ -x "$it" ]; else [ -r "$it" ]; fi || { printf %s "$it"; exit; }; done'
# Prints the first path below its arguments that cannot be read. Python works without a cache that it cannot read.
_TREE = 'find "$@" -name __pycache__ -prune -o ! -type l "(" ! -readable -o -type d ! -executable ")" -print -quit'


@dataclass(frozen=True)
class Choice:
    """`identity`: None means root, the caller. `text`: who it is; for root, why and what to do."""

    identity: Identity | None
    text: str


def socket_variable(urls: Mapping[str, str]) -> str | None:
    """The variable whose URL names a Unix socket; None if there is none. `urls`: server → URL."""
    for server, url in urls.items():
        address = urlsplit(url)
        hosts = [
            address.netloc.rpartition("@")[2],
            *(value for name, value in parse_qsl(address.query) if name == "host"),
        ]
        if address.scheme == "unix" or "/" in unquote(",".join(hosts)):
            return VARIABLES[server]
    return None


def named_paths(environment: Mapping[str, str], urls: Mapping[str, str]) -> list[Path]:
    """Files and directories that the services' settings name, in options of `urls` and in variables."""
    named = [value for url in urls.values() for one in url.split(",") for _, value in parse_qsl(urlsplit(one).query)]
    named += [environment.get(name, "") for name in _PATHS]
    if "postgres" in urls:  # asyncpg looks there for certificates
        named.append(f"{environment.get('HOME', '')}/.postgresql")
    return [Path(value) for value in named if value.startswith("/")]


def ways_to(paths: Iterable[Path]) -> list[Path]:
    """Each path, after all its parents."""
    return list(dict.fromkeys(step for path in paths for step in (*reversed(path.parents), path)))


def remedy(closed: Path, needed: Mapping[Path, str]) -> str:
    """The remedy for a closed path: that of the first needed path below it, else of its nearest needed parent."""
    on_way = next((fix for path, fix in needed.items() if closed in ways_to([path])), None)
    return on_way or next((needed[above] for above in closed.parents if above in needed), "")


# ── I/O below


def choose_user(identity: Identity, home: Home, environment: Mapping[str, str], urls: Mapping[str, str]) -> Choice:
    """The given user if it can run the services, else root.

    `environment`: of the services. `urls`: of the servers that the caller's environment names.
    """
    if variable := socket_variable(urls):
        return _root(f"{variable} names a socket, and its server may ask which user calls", "name a host and a port")
    needed = _needed(home, named_paths(environment, urls))
    present = ways_to(path for path in needed if path.exists())
    if closed := _first_closed(identity, _WAY, present) or _first_closed(identity, _TREE, [*CODE, _packages()]):
        return _root(f"{identity.name} cannot read {closed}", remedy(closed, needed))
    _compile()
    return _trial(identity, environment) or Choice(identity, f"services run as {identity.name}")


def environment_of(identity: Identity | None, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with a HOME that the user can enter: in root's home, a library that looks for a file fails."""
    home = Path(environment.get("HOME", "/"))
    if identity is None or not _first_closed(identity, _WAY, ways_to([home])):
        return dict(environment)
    return {**environment, "HOME": pwd.getpwuid(identity.uid).pw_dir}


def on_port(identity: Identity | None, port: int) -> Identity | None:
    """The user, with the capability to listen on `port` if the port is reserved for root."""
    if identity is None or port >= _low_ports_end():
        return identity
    return replace(identity, capability="net_bind_service")


def _low_ports_end() -> int:
    try:
        return int(_LOW_PORTS_END.read_text())
    except OSError:  # a kernel of before 4.11, or a sandbox's
        return 1024


def _root(cause: str, fix: str) -> Choice:
    return Choice(None, f"services run as root: {cause}; {fix}")


def _needed(home: Home, named: list[Path]) -> dict[Path, str]:
    """Paths that the services read → what to do if their user cannot."""
    python, standard, packages = Path(sys.executable), Path(sysconfig.get_path("stdlib")), _packages()
    anew = "rm -r .venv, then, with Debian's python3-venv: HEADRACE_PYTHON=/usr/bin/python3 ./headrace up"
    return {
        **dict.fromkeys(ROOT.parents, "move the checkout where all can enter, such as /srv"),
        ROOT: f"chmod a+rx {ROOT}",
        **{path: f"chmod -R a+rX {path}" for path in CODE},
        # The target before the link: it says more than a link that cannot be followed.
        **dict.fromkeys((python.resolve(), python, standard), anew),
        packages: f"chmod -R a+rX {packages}",
        home.api_keys: "HEADRACE_HOME=/a/directory/that/all/can/enter ./headrace up",
        **{path: "let that user read it" for it in named for path in (it.resolve(), it, *_entries(it))},
    }


def _packages() -> Path:
    return Path(sysconfig.get_path("purelib"))


def _compile() -> None:
    """Compile the code: the services' user may not write there, and would compile it at each start."""
    if not sys.dont_write_bytecode:
        for path in CODE:
            compileall.compile_dir(path, quiet=2)


def _entries(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else []


def _first_closed(identity: Identity, script: str, paths: Iterable[Path]) -> Path | None:
    """The first path that `script` prints, run as the user; None if it prints none."""
    command = wrap(["sh", "-c", script, "sh", *map(str, paths)], identity)
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()) if done.stdout.strip() else None


def _trial(identity: Identity, environment: Mapping[str, str]) -> Choice | None:
    """Start Python as the user, with a package of ours and one of the lock. Returns None, or root if it fails."""
    command = wrap([sys.executable, "-c", "import migrations, msgspec"], identity)
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment_of(identity, environment),
            capture_output=True,
            text=True,
            timeout=TRIAL_S,
            check=False,
        )
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        failure = said[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        failure = f"no result within {TRIAL_S:.0f} s"
    if not failure:
        return None
    return _root(f"{identity.name} cannot run Python here ({failure})", f"try: cd {ROOT} && {shlex.join(command)}")
