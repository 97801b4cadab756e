"""What documents quote of result files, between two markers, so that no figure is typed twice. Pure, but for the files.

    <!-- bench:goals from benchmarks/results/FILE.json -->
    … is made from the file …
    <!-- /bench -->

Several files may be named: the first that has something for the name is quoted, and goals take each from the first one
that has it. A file of one experiment (`only`) never becomes the environment of the page.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.report import goals, rates, results, sentences, tables
from benchmarks.report.results import KNEE, SATURATION, Results
from stack.home.directory import ROOT

DOCUMENTS = (ROOT / "README.md", *(ROOT / "docs" / f"{it}.md" for it in ("performance", "method", "costs")))
IMAGES = ROOT / "docs" / "images"
PREFIX = "bench-"

_BLOCK = re.compile(
    r"^<!-- bench:(?P<name>[a-z_]+) from (?P<files>\S+(?: \S+)*) -->\n(?P<text>.*?)^<!-- /bench -->$",
    re.MULTILINE | re.DOTALL,
)
_MARKER = re.compile(r"^<!-- /?bench\b", re.MULTILINE)


class BadMarker(ValueError):
    """A marker with an unknown name, or without an end."""


def _in_markdown(make: Callable[[Results], tables.Table | None]) -> Callable[[Results], str | None]:
    def text(found: Results) -> str | None:
        table = make(found)
        return tables.markdown(table) if table else None

    return text


def _verdict(found: Results) -> str | None:
    measured = results.verdict(found).headrace_orders_per_s
    if measured is None:
        return None
    return f"**{sentences.verdict(found)}** Each ratio is the median over pairs of neighbouring runs."


def _runs(found: Results) -> str | None:
    return None if _verdict(found) is None else " ".join([sentences.correctness(found), *sentences.beware(found)])


CONTENTS: dict[str, Callable[[Results], str | None]] = {
    "verdict": _verdict,
    "runs": _runs,
    "environment": lambda found: None if found.only else _in_markdown(sentences.environment)(found),
    "latency": rates.sentence,
    "summary": _in_markdown(tables.summary),
    "comparison": _in_markdown(tables.comparison),
    "fewer_connections": _in_markdown(tables.fewer_connections),
    "cpu": _in_markdown(tables.cpu),
    "open_loop": _in_markdown(rates.open_loop),
    "generators": _in_markdown(rates.generators),
    "limits": _in_markdown(tables.limits),
    "ablations": _in_markdown(tables.ablations),
    "growth": _in_markdown(tables.growth),
    "backlog": _in_markdown(tables.backlog),
    "hot_product": _in_markdown(tables.hot_product),
}
GOALS = "goals"
# What stands above a table: the plot, what it is drawn of, and what it is to those who do not see it.
PICTURES = {
    "summary": ("throughput", SATURATION, "Orders/s end to end, by contender"),
    "comparison": ("throughput", SATURATION, "Orders/s end to end, by contender"),
    "cpu": ("cpu", SATURATION, "CPU time of one order, by part and contender"),
    "open_loop": ("latency", KNEE, "Latency against the rate of arrivals"),
    "ablations": ("ablations", "ablations", "Orders/s with one thing taken away"),
    "growth": ("growth", "growth", "Orders/s on grown tables"),
    "backlog": ("backlog", "backlog", "Orders/s out of a backlog"),
}
NOT_MEASURED = "*Not measured in this run.*"


def content(name: str, found: Sequence[Results], images: str) -> str | None:
    """The text between the markers of `name`; None if no result has it.

    `images`: the directory of the pictures, from where the document is. Raises BadMarker.
    """
    if name == GOALS:
        return tables.markdown(tables.goals_table(found)) if found else None
    if name not in CONTENTS:
        raise BadMarker(f"there is no bench:{name}; there are: {', '.join([GOALS, *CONTENTS])}")
    return next((_picture(name, it, images) + text for it in found if (text := CONTENTS[name](it)) is not None), None)


def _picture(name: str, found: Results, images: str) -> str:
    plot, experiment, words = PICTURES.get(name, ("", "", ""))
    is_drawn = any(run.counts and run.experiment == experiment for run in found.runs)
    return f"![{words}]({images}/{PREFIX}{plot}.svg)\n\n" if is_drawn else ""


def named_in(document: str) -> list[str]:
    """The files that the markers of a document name, each once. Raises BadMarker."""
    _check(document)
    return list(dict.fromkeys(file for block in _BLOCK.finditer(document) for file in block["files"].split()))


def rewritten(document: str, load: Callable[[str], Results], images: str, files: Sequence[str] = ()) -> str:
    """The document with what its result files say, which `load` reads.

    `files`: to be quoted from now on, as far as they have something for a marker; the marker keeps its own otherwise.
    Raises BadMarker, and what `load` raises.
    """
    _check(document)

    def filled(block: re.Match[str]) -> str:
        sources, text = _quoted(block["name"], [list(files), block["files"].split()], load, images)
        return f"<!-- bench:{block['name']} from {' '.join(sources)} -->\n\n{text}\n\n<!-- /bench -->"

    return _BLOCK.sub(filled, document)


def _quoted(
    name: str, choices: Sequence[list[str]], load: Callable[[str], Results], images: str
) -> tuple[list[str], str]:
    """The files that are quoted, and what they say: the first choice that has something for the name."""
    if name == GOALS:
        sources = _with_goals(dict.fromkeys(it for choice in choices for it in choice), load)
        return sources, content(name, [load(it) for it in sources], images) or NOT_MEASURED
    for sources in choices:
        for source in sources:
            if (text := content(name, [load(source)], images)) is not None:
                return [source], text
    return choices[-1], NOT_MEASURED


def _with_goals(files: Iterable[str], load: Callable[[str], Results]) -> list[str]:
    """Those that measured a goal which none before them has; the first of all if none did."""
    kept: list[str] = []
    measured: set[str] = set()
    for file in files:
        found = {judged.goal.words for judged in goals.judge([load(file)]) if judged.value is not None}
        if found - measured:
            kept.append(file)
            measured |= found
    return kept or list(files)[:1]


def _check(document: str) -> None:
    """Every marker belongs to a block. Raises BadMarker."""
    markers, blocks = len(_MARKER.findall(document)), len(_BLOCK.findall(document))
    if markers != 2 * blocks:
        raise BadMarker(f"{markers} markers make {blocks} blocks: one has no end, or no `from FILE`")


# ── I/O below


def load(file: str) -> Results:
    """A result file, by its path from the root of the repository. Raises OSError, msgspec.ValidationError."""
    return results.decode((ROOT / file).read_bytes())


def stale(documents: Iterable[Path] = DOCUMENTS, files: Sequence[str] = ()) -> list[tuple[Path, str]]:
    """The documents that do not say what the files say, each with what it should be. Raises BadMarker."""
    found = [(path, path.read_text()) for path in documents]
    wanted = [(path, text, rewritten(text, load, _images_from(path), files)) for path, text in found]
    return [(path, right) for path, text, right in wanted if text != right]


def _images_from(document: Path) -> str:
    return Path(os.path.relpath(IMAGES, document.parent)).as_posix()
