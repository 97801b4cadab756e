"""The reference has every setting with its reason, and every metric, command, problem, reason and alert."""

import re

import pytest

from docs.generate import alerts, commands, http, metrics, problems, settings
from docs.generate.settings import PROCESSES, own, shared
from pipeline.contract.reasons import Reason
from pipeline.process.metrics import REGISTRY
from pipeline.process.settings import BrokerSettings
from stack.home.directory import ROOT
from web.problems.kinds import KINDS


@pytest.mark.parametrize("name", ["shared", *PROCESSES])
def test_every_setting_has_its_default_and_its_reason(name: str) -> None:
    fields = shared() if name == "shared" else own(PROCESSES[name])
    page = settings.page()
    assert len(fields) > 5
    assert [it for it, (_, why) in fields.items() if not why] == []
    assert [it for it in fields if f"| `{it}` | " not in page] == []


def test_a_default_is_written_with_its_unit() -> None:
    page = settings.page()
    for row in (
        "`INGEST_API_MAX_BODY_BYTES` | 65,536 bytes",
        "`INGEST_API_PORT` | 8080",
        "`PERSIST_WORKER_LINGER_MS` | 25 ms",
    ):
        assert f"| {row} |" in page


def test_a_reason_is_the_comment_above_a_setting_and_those_next_to_it() -> None:
    source = """class S:
    # First
    # line.
    a: int = 1
    b: int = 2

    c: int = 3
    # Own.
    d: int = 4
"""
    assert settings.reasons_in(source) == {"a": "First line.", "b": "First line.", "d": "Own."}


def test_every_process_reads_the_broker_settings_under_its_own_prefix() -> None:
    names = {name for name, it in BrokerSettings.model_fields.items() if not it.validation_alias}
    for process, its in PROCESSES.items():
        assert {f"{process}_{name}".upper() for name in names} <= set(own(its))


def test_every_metric_is_listed_with_its_labels() -> None:
    page = metrics.page()
    families = [it for it in REGISTRY.collect() if it.name.startswith("headrace_")]
    assert len(families) > 40
    assert [it.name for it in families if f"| `{it.name}" not in page] == []
    assert "| `headrace_batches_closed_total` | counter | `queue`, `closed_by` |" in page
    assert "| `headrace_log_lines_dropped_total` | counter | `because` |" in page


def test_every_command_is_listed_with_its_options() -> None:
    page = commands.page()
    assert {"up", "dead replay", "keys add", "docs"} <= set(commands.commands())
    assert [it for it in commands.commands() if f"\n## {it}\n" not in page] == []
    assert "| `--rate` | number | 100.0 |" in page
    assert "servers" not in commands.commands(), "it is hidden"


def test_every_problem_and_every_reason_is_listed() -> None:
    assert [it for it in KINDS if f"\n### {it}\n" not in problems.problems()] == []
    assert [it for it in Reason if f"| `{it}` |" not in problems.reasons()] == []


@pytest.mark.parametrize("name", ["orders", "products"])
def test_every_operation_is_listed(name: str) -> None:
    page = http.page(name)
    paths = http.document(name)["paths"]
    missing = [path for path, it in paths.items() for method in it if f"`{method.upper()} {path}`" not in page]
    assert missing == []


def test_every_alert_says_what_to_do_and_names_pages_that_are_there() -> None:
    page = alerts.page()
    assert len(alerts.alerts()) > 10
    for alert in alerts.alerts():
        assert f"| `{alert['alert']}` |" in page
        assert alerts.remedy_of(alert)
    for link, heading in re.findall(r"\(\.\./([\w/-]+\.md)\)(?:, \"([^\"]+)\")?", page):
        assert heading in (ROOT / "docs" / link).read_text()
