"""Writes the dashboard: grafana/dashboards/headrace.json, panel by panel from the list below.

python deploy/observe/dashboard.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "grafana" / "dashboards" / "headrace.json"
RATE = "[$__rate_interval]"
# Title, unit as Grafana names it, and what is drawn: legend → query. Two abreast, in the order of an order's way.
PANELS: list[tuple[str, str, dict[str, str]]] = [
    (
        "Orders/s",
        "ops",
        {
            "accepted": f"sum(rate(headrace_orders_accepted_total{RATE}))",
            "stored": f"sum(rate(headrace_orders_stored_total{RATE}))",
            "decided": f"sum(rate(headrace_orders_decided_total{RATE}))",
        },
    ),
    (
        "From acceptance to verdict",
        "s",
        {
            "p50": f"histogram_quantile(0.5, sum by (le) (rate(headrace_accept_to_decided_seconds_bucket{RATE})))",
            "p99": f"histogram_quantile(0.99, sum by (le) (rate(headrace_accept_to_decided_seconds_bucket{RATE})))",
        },
    ),
    ("Refused, by reason", "ops", {"{{reason}}": f"sum by (reason) (rate(headrace_orders_refused_total{RATE}))"}),
    (
        "Wait for a confirm (p99)",
        "s",
        {
            "{{exchange}}": "histogram_quantile(0.99,"
            f" sum by (le, exchange) (rate(headrace_confirm_seconds_bucket{RATE})))"
        },
    ),
    ("Orders that wait", "short", {"{{queue}}": "sum by (queue) (headrace_backlog_orders)"}),
    ("Messages ready", "short", {"{{queue}}": "max by (queue) (headrace_queue_depth_messages)"}),
    (
        "Orders a batch",
        "short",
        {
            "{{queue}}": f"sum by (queue) (rate(headrace_batch_orders_sum{RATE}))"
            f" / sum by (queue) (rate(headrace_batch_orders_count{RATE}))"
        },
    ),
    (
        "Batches closed by",
        "ops",
        {"{{queue}} {{closed_by}}": f"sum by (queue, closed_by) (rate(headrace_batches_closed_total{RATE}))"},
    ),
    (
        "Retries, by reason",
        "ops",
        {"{{queue}} {{reason}}": f"sum by (queue, reason) (rate(headrace_batch_retries_total{RATE}))"},
    ),
    (
        "Verdicts",
        "ops",
        {"{{outcome}} {{reason}}": f"sum by (outcome, reason) (rate(headrace_orders_decided_total{RATE}))"},
    ),
    (
        "Parked in the last hour",
        "short",
        {"{{stage}} {{reason}}": "sum by (stage, reason) (increase(headrace_orders_parked_total[1h]))"},
    ),
    (
        "Dead letters that wait",
        "short",
        {"{{stage}} {{reason}}": "max by (stage, reason) (headrace_dead_letters_waiting)"},
    ),
    ("CPU, by process", "percentunit", {"{{job}} {{instance}}": f"rate(process_cpu_seconds_total{RATE})"}),
    ("Memory, by process", "bytes", {"{{job}} {{instance}}": "process_resident_memory_bytes"}),
]


def panel(number: int, title: str, unit: str, drawn: dict[str, str]) -> dict[str, Any]:
    return {
        "id": number + 1,
        "title": title,
        "type": "timeseries",
        "datasource": {"type": "prometheus", "uid": "prometheus"},
        "gridPos": {"x": 12 * (number % 2), "y": 8 * (number // 2), "w": 12, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": query, "legendFormat": legend}
            for at, (legend, query) in enumerate(drawn.items())
        ],
    }


def dashboard() -> dict[str, Any]:
    return {
        "uid": "headrace",
        "title": "Headrace",
        "schemaVersion": 41,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "panels": [panel(number, *each) for number, each in enumerate(PANELS)],
    }


if __name__ == "__main__":
    OUT.write_text(json.dumps(dashboard(), indent=2) + "\n")
