"""`up --docker`: starts, shows and stops the stack of docker-compose.yml.

A command that needs the servers runs inside, because they are not published: `./headrace demo` becomes
`docker compose run tools demo`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stack.containers import replicas
from stack.errors import HeadraceError
from stack.home.directory import ROOT, Home
from stack.home.environment import wanted_ports
from stack.home.state import SERVERS, SERVICES, Part, StackState
from stack.process.logfile import open_log
from stack.process.ports import LOOPBACK, is_free, is_taken
from stack.process.proc import listener_of
from stack.run import backlog
from stack.run.backlog import Waiting
from stack.run.down import remove_data
from stack.run.status import print_troubles
from stack.run.table import as_dict, print_next, print_table
from stack.run.up import demo_product
from stack.terminal import out, say, spinner

# Commands that run in the container `tools`.
INSIDE = ("demo", "verify", "dead", "hooks", "keys")
# Variables and options that name another stack, see stack.home.environment. `keys` always means this stack.
_ELSEWHERE = ("INGEST_API_URL", "PRODUCT_API_URL", "DATABASE_URL", "AMQP_URL", "SECRETS_DIRECTORY")
_ELSEWHERE_OPTIONS = ("--database-url", "--amqp-url")
_FILE = ROOT / "docker-compose.yml"
# Files in the state directory. MARK: the stack is in containers. DATA_MARK: it was, and its volumes are left.
MARK, DATA_MARK = "containers", "containers-stopped"
# Our service → the port that the proxy has for it inside its container.
PUBLISHED = {"ingest_api": "8080", "product_api": "3000"}
INTERRUPTED = 130


def is_inside(command: str, arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a command runs in the container `tools`: not if the user names other servers."""
    is_elsewhere = any(environment.get(name) for name in _ELSEWHERE) or any(
        it.startswith(_ELSEWHERE_OPTIONS) for it in arguments
    )
    return command in INSIDE and (command == "keys" or not is_elsewhere)


def is_used(home: Home) -> bool:
    """Whether the commands mean the stack in containers."""
    return (home.path / MARK).exists()


def has_data(home: Home) -> bool:
    """Whether `down` left volumes of containers, with data, passwords and keys, for the next `up --docker`."""
    return (home.path / DATA_MARK).exists()


def _mark(home: Home) -> Path:
    """The state file that names the Compose files; DATA_MARK while the stack is down and its volumes are left."""
    return home.path / (DATA_MARK if has_data(home) and not is_used(home) else MARK)


def _set_mark(home: Home, files: list[str]) -> None:
    """Note the stack's Compose files until `down`. Raises HeadraceError if it is made of other files.

    Without the cluster's file, Compose would remove the other nodes as orphans, and leave their data.
    """
    mark = home.path / MARK
    if mark.exists() and _files_of(mark) != files:
        cause = f"it is made of {', '.join(_files_of(mark))}"
        raise HeadraceError(
            "another stack of containers is in use", cause, "./headrace down, then the same command again"
        )
    mark.write_text("".join(f"{os.path.relpath(it, ROOT)}\n" for it in files))


def state_of(containers: Sequence[dict[str, Any]]) -> StackState:
    """The state from `docker compose ps --format json`. A service with replicas has the state of the worst."""
    state = StackState(phase="ready")
    published = {port: it for it in containers for port in map(str, _inner_ports(it))}
    for name in (*SERVICES, *SERVERS):
        replicas = [it for it in containers if _part(it) == name]
        if not replicas:
            continue
        condition = "ready" if all(map(_is_well, replicas)) else "not ready"
        count = f" × {len(replicas)}" if len(replicas) > 1 else ""
        state.parts[name] = Part(_url(name, published), state=condition + count)
        if condition != "ready":
            state.phase = "starting"
    return state


def _part(container: dict[str, Any]) -> str:
    """The service that a container is a replica of. The cluster's nodes are rabbitmq, rabbitmq-2, rabbitmq-3."""
    name: str = container["Service"]
    return name.partition("-")[0]


def _is_well(container: dict[str, Any]) -> bool:
    return container["State"] == "running" and container["Health"] in ("healthy", "")


def _inner_ports(container: dict[str, Any]) -> list[int]:
    return [it["TargetPort"] for it in container.get("Publishers") or [] if it["PublishedPort"]]


def _url(name: str, published: dict[str, dict[str, Any]]) -> str:
    """The address on this machine; for an unpublished service, its name inside."""
    inner = PUBLISHED.get(name, "")
    if inner not in published:
        return f"in the network of the containers, as {name}"
    publisher = next(it for it in published[inner]["Publishers"] if str(it["TargetPort"]) == inner)
    return f"http://{publisher['URL']}:{publisher['PublishedPort']}"


# ── I/O below


def compose(*arguments: str, home: Home | None = None) -> list[str]:
    """A Docker Compose command on the stack's files, which `up` noted in `home`; default: docker-compose.yml.

    Raises HeadraceError if there is no Compose.
    """
    mark = _mark(home or Home.current())
    files = _files_of(mark) if mark.exists() else [str(_FILE)]
    named = [word for file in files for word in ("--file", file)]
    return [*_program(), "--project-directory", str(ROOT), *named, *arguments]


def _files_of(mark: Path) -> list[str]:
    # Relative to the checkout, which may have been moved.
    return [str(ROOT / line) for line in mark.read_text().splitlines()] or [str(_FILE)]


def wanted_files(environment: Mapping[str, str]) -> list[str]:
    """The files that COMPOSE_FILE names, if the first is docker-compose.yml; deploy/cluster is a second one.

    Otherwise COMPOSE_FILE is about another project, so docker-compose.yml is the only file.
    """
    files = [Path(it).resolve() for it in environment.get("COMPOSE_FILE", "").split(os.pathsep) if it]
    if files and files[0] != _FILE.resolve():
        say(f"ignoring COMPOSE_FILE: its first file is not {_FILE}")
        return [str(_FILE)]
    return [str(it) for it in files] or [str(_FILE)]


def _program() -> list[str]:
    """Docker's plugin, or Compose as a program of its own. Version 1 cannot read our file."""
    for program in (["docker", "compose"], ["docker-compose"]):
        if _version_of(program, "--short").startswith(("2", "v2", "5", "v5")):
            return program
    cause = "neither `docker compose` nor `docker-compose` is a Compose of version 2 or later"
    raise HeadraceError(
        "cannot run containers", cause, "https://docs.docker.com/compose/install, or without containers: ./headrace up"
    )


def _version_of(program: list[str], *options: str) -> str:
    try:
        done = subprocess.run([*program, "version", *options], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def up(home: Home, *, detach: bool) -> int:
    """Build missing images, start, and wait until all is ready; then stay or detach. Returns the exit code."""
    if home.is_held():
        raise HeadraceError("headrace is running already, without containers", fix="./headrace down, then try again")
    _check_engine()
    _program()  # before the mark: `down` could not stop a stack without Compose either
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    home.create()
    _check_ports(home)
    _set_mark(home, wanted_files(os.environ))
    start = compose("up", "--build", "--detach", "--wait", "--remove-orphans", home=home)
    since = time.monotonic()
    try:
        fix = "read the log; ./headrace logs SERVICE shows what a container said; then: ./headrace up --docker"
        _run_logged(home, start, "the containers did not get ready", fix)
        say(f"ready in {time.monotonic() - since:.1f} s")
        show()
        if detach:
            say("stop       ./headrace down")
            return 0
        say("\nCtrl-C stops everything")
        subprocess.run(compose("wait", "proxy", home=home), stdout=subprocess.DEVNULL, check=False)
    except KeyboardInterrupt:
        down(home, purge=False)
        return INTERRUPTED
    return 0


def _check_ports(home: Home) -> None:
    """Raise HeadraceError if another process has a port that the proxy is published on."""
    if not os.environ.get("DOCKER_HOST", "unix://").startswith("unix://"):
        return  # the ports are another machine's
    host = os.environ.get("HEADRACE_PUBLISH") or LOOPBACK
    ours = {it["PublishedPort"] for container in _containers(home) for it in container.get("Publishers") or []}
    wanted = wanted_ports()
    for name in PUBLISHED:
        port = wanted[name]
        if port not in ours and is_taken(port, host):
            holder = listener_of(port) or "another user's process"
            free = next((it for it in range(port + 1, 65536) if it not in wanted.values() and is_free(it)), 0)
            raise HeadraceError(
                f"port {port}, on which {name} is published, is taken",
                f"{holder} listens there",
                f"stop it, or choose another port: {name.upper()}_PORT={free} ./headrace up --docker",
            )


def _check_engine() -> None:
    """Raise HeadraceError if no Docker engine answers. Asks docker's own client, if there is one: it says why."""
    if not shutil.which("docker"):
        return
    done = subprocess.run(["docker", "version"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        fix = "start it (systemctl start docker), or without containers: ./headrace up"
        raise HeadraceError("no Docker engine answers", said[-1] if said else "", fix)


def _run_logged(home: Home, command: list[str], failed: str, fix: str) -> None:
    """Run a command with its output in the log `docker`. Raises HeadraceError if it fails.

    `failed`: what the error says. `fix`: what it suggests.
    """
    log = home.log("docker")
    with open_log(log) as output, spinner("working on the containers"):
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=_environment(), check=False
        )
    if done.returncode != 0:
        raise HeadraceError(failed, "see the last lines of the log", fix, str(log))


def _environment() -> dict[str, str]:
    """The environment, with the legacy builder if buildx is missing: Debian's package lacks that plugin."""
    has_newer = _version_of(["docker", "buildx"]) != ""
    return {**os.environ, **({} if has_newer else {"DOCKER_BUILDKIT": os.environ.get("DOCKER_BUILDKIT", "0")})}


def down(home: Home, *, purge: bool) -> int:
    """Stop and remove the containers; with `purge` also the volumes: data, passwords and keys. Returns 0."""
    since = time.monotonic()
    everything = ["--volumes"] if purge else []
    files = _all_files(home)
    if purge and files:
        (home.path / MARK).write_text(files)
    # A container with a profile, such as a demo that still runs, would keep the network.
    stop = compose("--profile", "*", "down", "--remove-orphans", *everything, home=home)
    _run_logged(
        home, stop, "the containers were not stopped", "check the engine with `docker info`, then: ./headrace down"
    )
    say(f"stopped in {time.monotonic() - since:.1f} s")
    if purge:
        _tell_purged(home)
    else:
        (home.path / DATA_MARK).write_text(files)
        (home.path / MARK).unlink(missing_ok=True)
        tell_data_kept()
    return 0


def _all_files(home: Home) -> str:
    """The lines of both marks: a purge also removes what an earlier stack of other files left."""
    marks = [home.path / MARK, home.path / DATA_MARK]
    lines = [line for mark in marks if mark.exists() for line in mark.read_text().splitlines()]
    return "".join(f"{line}\n" for line in dict.fromkeys(lines))


def tell_data_kept() -> None:
    say("kept       the volumes of the containers: data, passwords and keys")
    say("remove     ./headrace down --purge")


def _tell_purged(home: Home) -> None:
    """Report the purge. The state directory goes too, unless it holds the data of a stack without containers."""
    for name in (MARK, DATA_MARK):
        (home.path / name).unlink(missing_ok=True)
    say("removed    the volumes of the containers: data, passwords and keys")
    if home.credentials.exists() or home.api_keys.exists():
        say(f"kept       {home.path}: the data of the stack without containers")
        say("remove     ./headrace down --purge")
    elif home.path.exists():
        remove_data(home)


def describe(home: Home) -> str | None:
    """What `doctor` says about containers; None if this state directory never had any."""
    if not is_used(home):
        return "not running; their volumes are left: ./headrace down --purge removes them" if has_data(home) else None
    try:
        state = state_of(_containers(home))
    except HeadraceError as error:
        return f"in use, but {error}: {error.cause}"
    if not state.parts:
        return "in use, but no container exists: ./headrace up --docker, or ./headrace down"
    unwell = [name for name, part in state.parts.items() if not part.state.startswith("ready")]
    return f"running, but not ready: {', '.join(unwell)}" if unwell else "running: ./headrace status"


def status(*, as_json: bool) -> int:
    """Print the status. Returns 0 if all is ready, 1 if something is not, 3 if nothing runs."""
    containers = _containers()
    state = state_of(containers)
    waiting = _ask_services(state, containers) if state.parts else None
    if as_json:
        shown = as_dict(state, is_running=bool(state.parts)) | {"waiting": backlog.as_json(waiting)}
        out.print_json(json.dumps(shown))
    elif state.parts:
        say(f"headrace is {'running' if state.phase == 'ready' else state.phase}, in containers")
        print_table(state, "./headrace logs")
        print_troubles(state, waiting)
    else:
        say("headrace is not running; start it: ./headrace up --docker -d")
    return 3 if not state.parts else 0 if state.phase == "ready" else 1


def _ask_services(state: StackState, containers: Sequence[dict[str, Any]]) -> list[Waiting] | None:
    """Set `why` of each service that is not ready. Returns the backlog; None if it is unknown."""
    running = [it for it in containers if it["State"] == "running"]
    run = compose("exec", "-T")
    for name in SERVICES:
        if name in state.parts and (unwell := [it for it in running if _part(it) == name and not _is_well(it)]):
            state.parts[name].why = replicas.why_not_ready(unwell, run)
    return replicas.waiting_in([it for it in running if _part(it) == "ingest_api"], run)


def show() -> None:
    state = state_of(_containers())
    say()
    print_table(state, "./headrace logs")
    say()
    # API keys live inside the containers. Once there are any, this request finds no product, and no example is shown.
    print_next(state, demo_product(state, None), needs_key=False)


def _containers(home: Home | None = None) -> list[dict[str, Any]]:
    done = subprocess.run(
        compose("ps", "--all", "--format", "json", home=home), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        _check_engine()
        raise HeadraceError("docker compose ps failed", done.stderr.strip()[-300:], "docker compose ps")
    found = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
    return [it for it in found if _part(it) in (*SERVICES, *SERVERS, "proxy")]


def logs(name: str | None, *, follow: bool) -> int:
    """Replace this process by `docker compose logs`."""
    command = compose("logs", "--tail", "200" if name else "20", *(["--follow"] if follow else []))
    return _become([*command, *([name] if name else [])])


def run_inside(arguments: Sequence[str]) -> int:
    """Replace this process by the same command in the container `tools`."""
    has_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return _become(compose("run", "--rm", "--no-deps", *([] if has_terminal else ["-T"]), "tools", *arguments))


def _become(command: list[str]) -> int:
    sys.stdout.flush()
    os.execvp(command[0], command)  # noqa: S606 - no shell wanted
