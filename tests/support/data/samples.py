"""The samples of the documents: fenced blocks, and the commands in those for a shell."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stack.home.directory import ROOT

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"\n\n( {4}\S.*)")
# Its blocks are one script, which tests/unit/deploy runs as a whole.
RUN_AS_A_WHOLE = ROOT / "deploy" / "kubernetes" / "README.md"


@dataclass(frozen=True)
class Sample:
    document: str
    """Its path in the repository."""
    language: str
    text: str

    def commands(self) -> list[str]:
        """The commands of a block for a shell, without comments; one that goes over several lines is one."""
        lines = self.text.replace("\\\n", "").splitlines()
        return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def documents() -> list[Path]:
    """Every document for people, except the changelog and those of vendored code."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
    return sorted(it for it in found if it.name != "CHANGELOG.md" and it != RUN_AS_A_WHOLE)


def samples(*languages: str) -> list[Sample]:
    """The fenced blocks of all documents, in these languages; without any, all."""
    return [it for document in documents() for it in _samples(document) if not languages or it.language in languages]


def sample_with(document: str, text: str) -> str:
    """The one sample in Python of the document that has `text` in it."""
    (found,) = [it.text for it in samples("python") if it.document == document and text in it.text]
    return found


def indented(document: Path) -> list[str]:
    """The first line of each block that is code by its indentation alone."""
    return _INDENTED.findall(_FENCE.sub("", document.read_text()))


def _samples(document: Path) -> Iterator[Sample]:
    path = document.relative_to(ROOT).as_posix()
    for language, text in _FENCE.findall(document.read_text()):
        yield Sample(path, language, text)
