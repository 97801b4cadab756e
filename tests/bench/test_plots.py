"""The plots, drawn by the matplotlib of .venv-bench: the same bytes each time, and nothing hidden."""

import json
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.report.results import Percentiles, Results, encode
from tests.support.data.bench_results import a_run, some_results

_ROOT = Path(__file__).parents[2]
_DRAW = """
import json, sys
from benchmarks.report import plot_style, plots, results
found = results.decode(sys.stdin.buffer.read())
json.dump({name: plot_style.standalone(svg) for name, svg in plots.draw(found).items()}, sys.stdout)
"""

pytestmark = pytest.mark.timeout(600)

RUNS = [
    a_run(rate=1_000, cpu_us_per_order={"ingest_api": 90.0, "postgres": 40.0, "generator": 20.0}),
    a_run(rate=1_200, pair=2, generator_bound=True),
    a_run("sync-tuned", 100, cpu_us_per_order={"api": 900.0}),
    a_run("sync-tuned", 110, pair=2, void="1 lost"),
    a_run("fast-peer", failed="it died"),
    a_run(experiment="knee", load="open 250/s", latency_ms=Percentiles(1.0, 2.0, 3.0, 4.0)),
    a_run(experiment="knee", load="open 500/s", latency_ms=Percentiles(5.0, 9.0, 30.0, 40.0), errors=9),
    a_run("sync-tuned", experiment="knee", load="open 250/s", failed="no answer"),
    a_run(experiment="ablations", variant="as it is"),
    a_run(experiment="ablations", variant="confirms off", void="9 lost"),
    a_run(experiment="growth", variant="0 rows stored"),
    a_run(experiment="backlog", variant="1 persist_worker", load="1,000,000 queued"),
]


def draw(python: Path, found: Results) -> dict[str, str]:
    command = [str(python), "-c", _DRAW]
    done = subprocess.run(command, cwd=_ROOT, input=encode(found), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    drawn: dict[str, str] = json.loads(done.stdout)
    return drawn


@pytest.fixture(scope="module")
def drawn(bench_python: Path) -> dict[str, str]:
    return draw(bench_python, some_results(*RUNS))


def words_of(svg: str) -> str:
    """All its text, as a reader sees it."""
    return " ".join(
        "".join(it.itertext()) for it in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    )


def test_each_plot_is_drawn_when_there_is_something_to_draw(bench_python: Path, drawn: dict[str, str]) -> None:
    assert set(drawn) == {"throughput", "cpu", "latency", "ablations", "growth", "backlog"}
    assert draw(bench_python, some_results()) == {}


def test_the_same_results_give_the_same_bytes(bench_python: Path, drawn: dict[str, str]) -> None:
    assert draw(bench_python, some_results(*RUNS)) == drawn


def test_what_is_void_failed_or_bound_is_drawn_as_such(drawn: dict[str, str]) -> None:
    words = words_of(drawn["throughput"])
    for flaw in ("1 VOID", "1 FAILED", "1 GENERATOR-BOUND"):
        assert flaw in words
    assert "a <fast> peer" in words
    assert "1 VOID" in words_of(drawn["ablations"])


def test_nothing_valid_at_all_is_drawn_all_the_same(bench_python: Path) -> None:
    failures = [
        a_run(failed="it died"),
        a_run(experiment="knee", load="open 250/s", failed="it died"),
        a_run(experiment="growth", variant="0 rows stored", void="1 lost"),
    ]
    assert set(draw(bench_python, some_results(*failures))) == {"throughput", "latency", "growth"}


def test_text_is_text_and_colours_follow_the_reader(drawn: dict[str, str]) -> None:
    for name, svg in drawn.items():
        assert words_of(svg), name
        assert "prefers-color-scheme: dark" in svg
        assert "<metadata>" not in svg
        assert "#000000" not in svg, name
        assert len(svg) < 60_000, name
