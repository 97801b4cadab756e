"""Builds the documentation site with MkDocs, where every warning is an error, and serves it on the loopback."""

from __future__ import annotations

import errno
import importlib.util
import os
import subprocess
import sys
import webbrowser
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from stack.errors import HeadraceError
from stack.home.directory import ROOT, Home

HOST = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class has this name
        """Log nothing: a line for each icon would hide the address."""


# ── I/O below


def build_site(home: Home) -> Path:
    """Build the site. Returns its directory. Raises HeadraceError if MkDocs is missing or has a warning."""
    if not importlib.util.find_spec("material") or not importlib.util.find_spec("mkdocs"):
        raise HeadraceError(
            "MkDocs is not installed",
            "this Python has only what the services need",
            "./headrace docs (installs requirements-dev.lock into .venv)",
        )
    home.create()
    site, log = home.path / "site", home.log("docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    # Without this, Material prints an advertisement on each build.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    with log.open("wb") as output:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise HeadraceError(
            "cannot build the documentation", "a page or a link is broken; the lines below name it", "", str(log)
        )
    return site


def serve_site(site: Path, port: int, *, is_opened: bool) -> None:
    """Serve the site on the loopback until Ctrl-C. Raises HeadraceError if the port cannot be used."""
    try:
        server = ThreadingHTTPServer((HOST, port), partial(_Handler, directory=str(site)))
    except OSError as error:
        raise HeadraceError(
            f"cannot listen on {HOST}:{port}", _cause_of(error), f"./headrace docs --port {port + 1}"
        ) from error
    address = f"http://{HOST}:{port}/"
    with server:
        print(f"{address}   Ctrl-C ends it", flush=True)
        if is_opened and not webbrowser.open(address):
            print("no browser found: open the address yourself", file=sys.stderr)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def _cause_of(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "something else listens there"
    return error.strerror or str(error)
