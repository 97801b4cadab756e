"""python -m benchmarks.report [RESULT.json ...] [--check]: writes reports, pictures and tables from result files.

Writes the HTML report beside each file, the SVGs of the README, and the tables of the documents. Of
several files, the first that has something to say about a table is quoted. Without a file: from those that the
documents name. --check writes nothing, needs no matplotlib, and exits 1 when something is not what its file says.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.report import documents, page
from benchmarks.report.documents import IMAGES, PREFIX
from benchmarks.report.results import Results
from stack.home.directory import ROOT

_SOURCE = re.compile(r"<!-- bench from (?P<file>\S+) (?P<digest>[0-9a-f]{64}) -->")


def signed(svg: str, file: str, data: bytes) -> str:
    """The picture, which says what it was drawn from: file, and SHA-256 of its content."""
    return f"{svg.rstrip()}\n<!-- bench from {file} {hashlib.sha256(data).hexdigest()} -->\n"


# ── I/O below


def main() -> int:
    """Returns 0 if done; 1 if --check found a difference; 2 if a file or marker cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description="Tell what result files say.")
    parser.add_argument("files", nargs="*", type=Path, metavar="RESULT.json")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when a document is not what they say"
    )
    arguments = parser.parse_args()
    try:
        files = [str(file.resolve().relative_to(ROOT)) for file in arguments.files]
        return check(files) if arguments.check else tell(files)
    except (ValueError, OSError, msgspec.ValidationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def check(files: Sequence[str] = ()) -> int:
    """Compare documents and pictures with their result files. Returns the exit code."""
    wrong = [str(path.relative_to(ROOT)) for path, _ in documents.stale(files=files)] + stale_images()
    for name in wrong:
        print(f"{name} is not what its result file says: python -m benchmarks.report", file=sys.stderr)
    return 1 if wrong else 0


def stale_images() -> list[str]:
    """Pictures whose result file is gone, or has changed since."""
    return [str(path.relative_to(ROOT)) for path in sorted(IMAGES.glob(f"{PREFIX}*.svg")) if not _is_fresh(path)]


def _is_fresh(image: Path) -> bool:
    found = _SOURCE.search(image.read_text())
    if found is None or not (source := ROOT / found["file"]).exists():
        return False
    return hashlib.sha256(source.read_bytes()).hexdigest() == found["digest"]


def tell(files: Sequence[str] = ()) -> int:
    """Write everything, and list on standard error what was written."""
    for path, text in documents.stale(files=files):
        path.write_text(text)
        _say(path)
    named = files or list(
        dict.fromkeys(it for path in documents.DOCUMENTS for it in documents.named_in(path.read_text()))
    )
    drawn: set[str] = set()
    for file in named:
        found = documents.load(file)
        _say(write_html(found, ROOT / file))
        drawn |= _write_images(found, file, drawn)
    return 0


def write_html(found: Results, result_file: Path) -> Path:
    """The report, beside the result file. Returns its path. Needs matplotlib."""
    from benchmarks.report import plot_style, plots

    path = result_file.with_suffix(".html")
    path.write_text(page.page(found, plots.draw(found), plot_style.css()))
    return path


def _write_images(found: Results, file: str, drawn: set[str]) -> set[str]:
    """The pictures that no earlier file had. Returns their names."""
    from benchmarks.report import plot_style, plots

    IMAGES.mkdir(parents=True, exist_ok=True)
    fresh = {name: svg for name, svg in plots.draw(found).items() if name not in drawn}
    for name, svg in fresh.items():
        path = IMAGES / f"{PREFIX}{name}.svg"
        path.write_text(signed(plot_style.standalone(svg), file, (ROOT / file).read_bytes()))
        _say(path)
    return set(fresh)


def _say(path: Path) -> None:
    print(f"  wrote {path.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
