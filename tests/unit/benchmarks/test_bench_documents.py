"""Figures in documents are those of the result files that they name."""

import re
from pathlib import Path

import pytest

from benchmarks.report import __main__ as report
from benchmarks.report import documents
from benchmarks.report.documents import BadMarker, named_in, rewritten
from benchmarks.report.results import Results
from tests.support.data.bench_results import a_run, some_results

FILES = {
    "old.json": some_results(a_run(rate=1_000), a_run("sync-tuned", 100)),
    "new.json": some_results(a_run(rate=2_000), a_run("sync-tuned", 100)),
    "soak.json": some_results(
        a_run(experiment="soak", seconds=600.0, rss_slope_mb_per_h={"ingest_api": 0.5}), only="soak"
    ),
}
DOCUMENT = """# Title

<!-- bench:summary from old.json -->
typed by hand
<!-- /bench -->

Between.

<!-- bench:goals from old.json -->
<!-- /bench -->
"""


def load(file: str) -> Results:
    return FILES[file]


def test_what_stands_between_markers_is_made_from_the_file_and_the_rest_is_kept() -> None:
    text = rewritten(DOCUMENT, load, "images")
    assert "typed by hand" not in text
    assert "| **Headrace** | 1,000 |" in text
    assert text.startswith("# Title\n\n<!-- bench:summary from old.json -->\n\n![")
    assert "\n<!-- /bench -->\n\nBetween.\n" in text


def test_rewriting_twice_changes_nothing() -> None:
    once = rewritten(DOCUMENT, load, "images")
    assert rewritten(once, load, "images") == once


def test_another_file_is_named_once_it_is_quoted() -> None:
    text = rewritten(DOCUMENT, load, "images", ["new.json"])
    assert named_in(text) == ["new.json"]
    assert "| **Headrace** | 2,000 |" in text


def test_a_file_that_has_nothing_for_a_marker_leaves_it_its_own() -> None:
    text = rewritten(DOCUMENT, load, "images", ["soak.json"])
    assert "<!-- bench:summary from old.json -->" in text


def test_goals_take_each_from_the_first_file_that_measured_it() -> None:
    text = rewritten(DOCUMENT, load, "images", ["new.json", "soak.json"])
    assert "<!-- bench:summary from new.json -->" in text
    assert "<!-- bench:goals from new.json soak.json -->" in text
    assert "| ≤ 10 MB/h | 0.5 MB/h | met |" in text
    assert "| ≥ 10 × | 20.0 × | met |" in text


def test_what_no_file_has_is_said_to_be_missing() -> None:
    text = rewritten("<!-- bench:growth from old.json -->\n<!-- /bench -->\n", load, "images", ["new.json"])
    assert text == "<!-- bench:growth from old.json -->\n\n*Not measured in this run.*\n\n<!-- /bench -->\n"


def test_a_picture_stands_where_there_is_one_for_the_table() -> None:
    assert "![Orders/s end to end, by contender](images/bench-throughput.svg)" in rewritten(DOCUMENT, load, "images")


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (
            "<!-- bench:nonsense from old.json -->\n<!-- /bench -->\n",
            "there is no bench:nonsense; there are: goals, verdict",
        ),
        ("<!-- bench:summary from old.json -->\nno end\n", "one has no end"),
        ("<!-- bench:summary -->\n<!-- /bench -->\n", "no `from FILE`"),
    ],
)
def test_a_marker_that_says_nothing_is_an_error(document: str, reason: str) -> None:
    with pytest.raises(BadMarker, match=reason):
        rewritten(document, load, "images")


def test_the_documents_say_what_their_result_files_say() -> None:
    named = [file for path in documents.DOCUMENTS for file in named_in(path.read_text())]
    assert named, "no document names a result file"
    assert [path.name for path, _ in documents.stale()] == [], "fix: .venv-bench/bin/python -m benchmarks.report"


def test_every_link_of_the_measurements_leads_somewhere() -> None:
    page = documents.DOCUMENTS[-1]
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
    assert targets
    assert [it for it in targets if not it.startswith("https:") and not (page.parent / it).exists()] == []


def test_the_pictures_were_drawn_from_the_files_as_they_are() -> None:
    assert list(documents.IMAGES.glob("bench-*.svg"))
    assert report.stale_images() == [], "fix: .venv-bench/bin/python -m benchmarks.report"


def test_a_picture_of_a_file_that_has_changed_since_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "benchmarks/results/key_locality.json"
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "IMAGES", tmp_path)
    (tmp_path / source).parent.mkdir(parents=True)
    (tmp_path / source).write_bytes(b"{}")
    (tmp_path / "bench-cpu.svg").write_text(report.signed("<svg></svg>\n", source, b"{}"))
    assert report.stale_images() == []

    (tmp_path / source).write_bytes(b"{ }")
    assert report.stale_images() == ["bench-cpu.svg"]
    (tmp_path / source).unlink()
    assert report.stale_images() == ["bench-cpu.svg"]


def test_a_file_that_is_no_result_is_told_and_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["report", "--check", str(Path(report.__file__).parents[1] / "results/key_locality.json")]
    )
    assert report.main() == 2
    assert "error: " in capsys.readouterr().err
