"""`./headrace status`: it asks the health listeners, which answer while clients hold the public ports."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stack.home.directory import Home
from stack.home.state import SERVICES, Part, StackState
from stack.operate.target import choose_target
from stack.process.proc import identify
from stack.run.status import running_urls, status

# Nobody listens there, as when every connection is taken.
ATTACKED = "http://127.0.0.1:1"
METRICS = """
headrace_backlog_orders{queue="orders.accepted"} 20.0
headrace_backlog_messages{queue="orders.accepted"} 1.0
headrace_backlog_oldest_seconds{queue="orders.accepted"} 9.0
headrace_backlog_orders{queue="orders.created"} 0.0
headrace_backlog_messages{queue="orders.created"} 0.0
headrace_backlog_oldest_seconds{queue="orders.created"} 0.0
"""
PAGES = {"/health": json.dumps({"status": "ready", "parts": {}}), "/metrics": METRICS}


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = PAGES[self.path].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def health() -> Iterator[str]:
    """The URL of a health listener."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def home(tmp_path: Path, health: str, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Of a stack that runs, whose APIs nobody can reach any more."""
    for name in ("INGEST_API_URL", "PRODUCT_API_URL", "DATABASE_URL", "AMQP_URL", "REDIS_URL", "SECRETS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    home = Home(tmp_path / "home")
    home.create()
    parts = {name: Part(health, state="ready") for name in SERVICES}
    for name in ("ingest_api", "product_api"):
        parts[name] = Part(ATTACKED, state="ready", health_url=health)
    servers = {"postgres": Part("postgresql://u@h/d", state="ready"), "rabbitmq": Part("amqp://u@h", state="ready")}
    StackState("ready", supervisor=identify(os.getpid()), parts={**parts, **servers}).save(home)
    return home


def test_p8_a_service_whose_public_port_is_attacked_is_as_ready_as_its_health_listener_says(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(home, as_json=False) == 0
    shown = capsys.readouterr().out
    assert "not ready" not in shown
    assert f"{ATTACKED}/api/v1/orders" in shown, "the table has the port that is for clients"
    assert "orders.accepted: 20 orders in 1 message wait for their row, the oldest for 9 s\n" in shown


def test_verify_asks_the_health_listener_too(home: Home, health: str) -> None:
    assert choose_target(home).health == health
    assert running_urls(home)["ingest_api"] == ATTACKED


def test_a_stack_of_the_release_before_is_asked_where_it_answers(home: Home, health: str) -> None:
    """Its state file knows no health listeners."""
    raw = json.loads(home.state.read_text())
    for part in raw["parts"].values():
        part["url"] = part.pop("health_url") or part["url"]
    home.state.write_text(json.dumps(raw))
    assert status(home, as_json=True) == 0
    assert choose_target(home).health == health
