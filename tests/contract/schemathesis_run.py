"""Runs schemathesis as a process against one API, and reads its report.

All its checks and phases are on, with valid and with invalid data. exemptions.py lists the findings that are right all
the same. It uses no random numbers, so two runs of the same code differ only in ids. Changed code changes the run, so
provocations.py lists the requests that every run must contain.
"""

import asyncio
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemathesis.checks import CHECKS, load_all_checks

_ROOT = Path(__file__).parents[2]

# Cases for each operation and phase. HEADRACE_CONTRACT_CASES=1000 takes a night.
_CASES = int(os.environ.get("HEADRACE_CONTRACT_CASES", "25"))

# Values that schemathesis could not guess, so that its requests get past validation: products that can be ordered,
# prices in cents, the ETag that always matches. The rest of the time, and elsewhere, it makes up its own.
_CONFIG = """
hooks = "tests.contract.hooks"
base-url = "{url}"
continue-on-failure = true
request-timeout = 10.0

[generation]
deterministic = true
database = "none"
max-examples = {cases}

[cache]
enabled = false

[checks]
enabled = true
max_response_time = 5.0

[auth.wfc]
path = {keys}
peers = {peers}

[dictionaries.products]
values = {products}

[dictionaries.prices]
values = [0, 0.01, 19.99, 1500, 9999999999.99]

[dictionaries.etags]
values = ["*"]

[parameters]
"header.If-Match" = {{ dictionary = "etags", probability = 0.7 }}
"path.product_id" = {{ dictionary = "products", probability = 0.5 }}
"body.productId" = {{ dictionary = "products", probability = 0.6 }}
"body.[*].productId" = {{ dictionary = "products", probability = 0.6 }}
"body.price" = {{ dictionary = "prices", probability = 0.5 }}
"""


@dataclass(frozen=True)
class Target:
    """An API, and what schemathesis must know about it."""

    url: str
    tokens: Mapping[str, str]
    """Client → token. schemathesis tries an operation with each, until one is allowed."""
    peers: Sequence[str]
    """Clients that must not see each other's orders."""
    products: Sequence[str]
    """Ids that can be ordered."""


@dataclass(frozen=True)
class Report:
    operations: int
    cases: int
    statuses: Mapping[str, Set[int]]
    """Operation → the statuses of its answers."""
    checks: Counter[str]
    """Check → how often it ran."""
    exempted: Mapping[str, int]
    """Reason of an exemption → how often it was used."""
    failures: frozenset[str]
    """Class names of failures, titles of schemathesis's own errors, and incomplete phases."""
    seconds: float
    output: str
    """What schemathesis printed."""

    def summary(self, title: str) -> str:
        return (
            f"{title}: {self.operations} operations, {self.cases} cases,"
            f" {self.checks.total()} checks of {len(self.checks)} kinds,"
            f" {sum(self.exempted.values())} exempted for {len(self.exempted)} reasons,"
            f" failures: {', '.join(sorted(self.failures)) or 'none'}; {self.seconds:.0f} s"
        )


def all_checks() -> set[str]:
    load_all_checks()
    return {*CHECKS.get_all_names(), "max_response_time"}


async def run_schemathesis(target: Target, directory: Path, *arguments: str) -> Report:
    """`directory`: empty, for its files. `arguments`: passed on to the command."""
    _write_config(target, directory)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", "config.toml", "run"),
        *(f"{target.url}/openapi.json", "--no-color", "--report", "json,ndjson"),
        *("--report-json-path", "report.json", "--report-ndjson-path", "events.ndjson"),
        *arguments,
        cwd=directory,
        env={
            **os.environ,
            "PYTHONPATH": str(_ROOT),
            "HEADRACE_CONTRACT_PRODUCTS": json.dumps(list(target.products)),
            "HEADRACE_CONTRACT_EXEMPTED": str(directory / "exempted.json"),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
    return _read_report(directory, output)


def _write_config(target: Target, directory: Path) -> None:
    keys = [
        {"name": client, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {token}"}]}
        for client, token in target.tokens.items()
    ]
    (directory / "keys.json").write_text(json.dumps({"auth": keys}))
    config = _CONFIG.format(
        url=target.url,
        cases=_CASES,
        keys=json.dumps(str(directory / "keys.json")),
        peers=json.dumps(list(target.peers)),
        products=json.dumps(list(target.products)),
    )
    (directory / "config.toml").write_text(config)


def _read_report(directory: Path, output: str) -> Report:
    if not (directory / "report.json").exists():
        raise AssertionError(f"schemathesis did not start:\n{output}")
    report: dict[str, Any] = json.loads((directory / "report.json").read_text())
    found = {it["type"] for it in report["failures"]} | {it["title"] for it in report["errors"]}
    found |= {name for name, phase in report["phases"].items() if phase["status"] in ("error", "interrupted")}
    if not report["complete"] or report["operations"]["tested"] < report["operations"]["selected"]:
        found.add(f"not all was tested: {report['stop_reason']}")
    statuses, checks = _read_events(directory / "events.ndjson")
    return Report(
        report["operations"]["tested"],
        report["test_cases"]["generated"],
        statuses,
        checks,
        json.loads((directory / "exempted.json").read_text()),
        frozenset(found),
        report["running_time"],
        output,
    )


def _read_events(path: Path) -> tuple[dict[str, set[int]], Counter[str]]:
    statuses: defaultdict[str, set[int]] = defaultdict(set)
    checks: Counter[str] = Counter()
    for line in path.read_text().splitlines():
        recorded = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        for cases in recorded.get("checks", {}).values():
            checks.update(it["name"] for it in cases)
        for case_id, interaction in recorded.get("interactions", {}).items():
            case = recorded["cases"][case_id]["value"]
            if answer := interaction.get("response"):
                statuses[f"{case['method']} {case['path']}"].add(answer["status_code"])
    return dict(statuses), checks
