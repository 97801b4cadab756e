"""`doctor`: checks servers, ports, disk, memory, keys and policies, and says whether `up` would work."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from stack.errors import HeadraceError
from stack.home import state as states
from stack.home.directory import Home
from stack.home.environment import VARIABLES, external_urls, wanted_ports
from stack.home.key_file import OWN_CLIENT, read_keys
from stack.home.state import SERVERS, StackState
from stack.process.ports import is_free
from stack.process.proc import listener_of
from stack.servers import binaries, postgres, rabbitmq, redis_server
from stack.servers.binaries import PACKAGES, TITLES
from stack.servers.install import apt_line, become_root, missing_servers
from stack.servers.policies import dangers, read_policies
from stack.terminal import say, show_table

# A small run fits into this: WAL up to 2 GB, the broker's limit, logs.
NEEDED_DISK_BYTES = 3_000_000_000
# A new PostgreSQL cluster takes 100 MB. Below 50 MB (its disk_free_limit) RabbitMQ refuses every order.
LEAST_DISK_BYTES = 200_000_000
# PostgreSQL's buffers, the Erlang VM, Redis' limit and five Python processes.
NEEDED_MEMORY_BYTES = 1_000_000_000
DEFAULT_SERVER_PORTS = {
    "postgres": postgres.DEFAULT_PORT,
    "rabbitmq": rabbitmq.DEFAULT_PORT,
    "redis": redis_server.DEFAULT_PORT,
}


@dataclass(frozen=True)
class Finding:
    """One line of the report. `verdict`: "ok", "note" (`up` copes with it) or "problem" (`up` would fail)."""

    subject: str
    text: str
    verdict: str = "ok"


def doctor(home: Home, containers: str | None, *, is_in_containers: bool) -> int:
    """Print the findings. Returns 0 if `up` would work, else 1. `containers`: a sentence about them, if any."""
    state = states.load(home)
    findings = [Finding("python", f"{platform.python_version()} on {platform.platform()}")]
    findings += [_server(server) for server in SERVERS]
    findings += [_port(name, port, state.is_running) for name, port in _ports(state.ports).items()]
    findings += [disk(home), _memory(), _writable(home), _keys(home)]
    findings += _policies(home, state)
    findings.append(Finding("stack", "running: ./headrace status" if state.is_running else "not running"))
    if containers:
        verdict = "ok" if containers.startswith(("running:", "not")) else "note"
        findings.append(Finding("containers", containers, verdict))
    _print(findings)
    problems = [finding for finding in findings if finding.verdict == "problem"]
    if is_in_containers and not problems:
        say("\n`up` would fail: headrace is in use in containers; ./headrace down stops them")
        return 1
    say(f"\n{'`up` would fail: ' + problems[0].text if problems else _what_up_does(state.is_running)}")
    return 1 if problems else 0


def _server(server: str) -> Finding:
    if server in external_urls():
        return Finding(TITLES[server], f"external: {VARIABLES[server]} names it")
    if binary := binaries.find(server):
        return Finding(TITLES[server], f"{binary.version} in {binary.path}")
    if _can_install():
        return Finding(TITLES[server], f"not installed: `up` installs {PACKAGES[server]}", "note")
    return Finding(TITLES[server], f"not installed: sudo apt-get install {PACKAGES[server]}", "problem")


def _can_install() -> bool:
    return shutil.which("apt-get") is not None and become_root() is not None


def _ports(remembered: dict[str, int]) -> dict[str, int]:
    servers = {name: remembered.get(name, port) for name, port in DEFAULT_SERVER_PORTS.items()}
    return {**wanted_ports(), **servers}


def _port(name: str, port: int, is_running: bool) -> Finding:
    if is_free(port):
        return Finding(f"port {port}", f"free, for {name}")
    holder = listener_of(port) or "another user's process"
    if is_running:
        return Finding(f"port {port}", f"{name}: {holder}")
    return Finding(f"port {port}", f"taken by {holder}: {name} takes the next free one", "note")


def disk(home: Home) -> Finding:
    """Whether the disk of the state directory has room for a stack."""
    free = shutil.disk_usage(_nearest(home.path)).free
    text = f"{free / 1e9:.1f} GB free at {home.path}"
    if free < LEAST_DISK_BYTES:
        return Finding("disk", f"{text}: free some, or set HEADRACE_HOME", "problem")
    return Finding("disk", text, "ok" if free > NEEDED_DISK_BYTES else "note")


def _memory() -> Finding:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    text = f"{available / 1e9:.1f} GB available, {os.cpu_count()} cores"
    return Finding("memory", text, "ok" if available > NEEDED_MEMORY_BYTES else "note")


def _writable(home: Home) -> Finding:
    directory = _nearest(home.path)
    if home.path.exists() and not home.can_be_used():
        return Finding("state", f"{home.path} holds other files than Headrace's: correct HEADRACE_HOME", "problem")
    if os.access(directory, os.W_OK | os.X_OK):
        return Finding("state", f"{home.path} can be written")
    return Finding("state", f"{directory} cannot be written: set HEADRACE_HOME", "problem")


def _keys(home: Home) -> Finding:
    try:
        clients = [key.client for key in read_keys(home)]
    except HeadraceError as error:
        return Finding("API keys", f"{error}: {error.fix}", "problem")
    if not clients:
        return Finding("API keys", "none: the services are open to everybody on this machine")
    return Finding("API keys", f"{sum(client != OWN_CLIENT for client in clients)}: ./headrace keys list")


def _policies(home: Home, state: StackState) -> list[Finding]:
    """Policies of the broker, ours or the one that AMQP_URL names, that would remove accepted orders."""
    url = external_urls().get("rabbitmq") or (state.parts["rabbitmq"].url if state.is_running else "")
    if not url:
        return []
    found = read_policies(home, state, url)
    if found is None:
        text = "unknown: no management API answers; docs/operate/broker.md says which policies remove orders"
        return [Finding("policies", text, "note")]
    told = [Finding("policies", text, "note") for text in dangers(found)]
    return told or [Finding("policies", "none of the broker's policies removes orders")]


def _nearest(path: Path) -> Path:
    """The path itself, or its nearest parent that exists."""
    return next(each for each in (path, *path.parents) if each.exists())


def _what_up_does(is_running: bool) -> str:
    if is_running:
        return "`up` would only print where everything is"
    missing = missing_servers()
    return (f"`up` would run: {apt_line(missing)}, and start" if missing else "`up` would start") + " everything"


def _print(findings: list[Finding]) -> None:
    colours = {"ok": "green", "note": "yellow", "problem": "red"}
    table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
    for finding in findings:
        colour = colours[finding.verdict]
        table.add_row(f"[{colour}]{finding.verdict}[/]", escape(finding.subject), escape(finding.text))
    show_table(table)
