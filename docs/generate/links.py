"""Links that lead out of docs/: to code and tests, of which the site has copies, and to documents elsewhere."""

import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

_NAMED = re.compile(r'docs/([\w/-]+)\.md(?:, "([^"]+)")?')
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def targets(text: str, origin: str) -> Iterator[str]:
    """What the links of a document lead to, as paths in the repository. `origin` is the document's own."""
    for _, link in LINK.findall(text):
        if path := _path_of(link, origin):
            yield path


def rewritten(text: str, origin: str, uri: str, pages: Mapping[str, str], root: Path) -> str:
    """The document with links as the site needs them.

    `origin` is where the document is in the repository, `uri` where it is on the site; `pages` says that of all
    others. A link to a file that is no page leads to its copy. A folder has no copy, so only the link's text stays.
    """

    def replace(match: re.Match[str]) -> str:
        text, link = match[1], match[2]
        path = _path_of(link, origin)
        if not path:
            return match[0]
        if path in pages:
            _, hash_sign, anchor = link.partition("#")
            return f"[{text}]({_between(uri, pages[path])}{hash_sign}{anchor})"
        if (root / path).is_file():
            return f"[{text}]({_between(uri, copy_of(path))}{_anchor(text, root / path)})"
        return text if (root / path).is_dir() else match[0]

    return LINK.sub(replace, text)


def of_names(text: str, root: Path) -> str:
    """A text of the code with links in place of names of pages: `docs/x.md`, or `docs/x.md, "Heading"`.

    The links lead from a page in a folder of docs/.
    """

    def link(match: re.Match[str]) -> str:
        page, heading = match.groups()
        title = (root / "docs" / f"{page}.md").read_text().partition("\n")[0].lstrip("# ")
        return f"[{heading or title}](../{page}.md{_anchor_of(heading or '')})"

    return _NAMED.sub(link, text)


def _anchor_of(heading: str) -> str:
    words = re.sub(r"[^\w -]", "", heading.lower())
    return f"#{words.replace(' ', '-')}" if heading else ""


def copy_of(path: str) -> str:
    """Where the site has the copy of a file of the repository."""
    return f"source/{path}.html"


def _path_of(link: str, origin: str) -> str:
    """The path in the repository; empty for a link to elsewhere, or within the page."""
    target = link.partition("#")[0]
    if not target or ":" in target:
        return ""
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))


def _between(uri: str, target: str) -> str:
    return posixpath.relpath(target, posixpath.dirname(uri) or ".")


def _anchor(text: str, file: Path) -> str:
    """The line of the test that a link names."""
    name = f"test_{text.replace(' ', '_')}"
    return f"#{name}" if file.suffix == ".py" and f"def {name}(" in file.read_text() else ""
