"""What MkDocs calls at each build (`hooks` in mkdocs.yml): adds the generated pages and rewrites links out of docs/."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the script `mkdocs` does not look for packages where it is started

from docs.generate import alerts, commands, http, links, messages, metrics, problems, promises, settings, sources  # noqa: E402

GENERATED: dict[str, Callable[[], str]] = {
    "operate/alerts.md": alerts.page,
    "reference/settings.md": settings.page,
    "reference/metrics.md": metrics.page,
    "reference/commands.md": commands.page,
    "reference/problems.md": problems.problems,
    "reference/reasons.md": problems.reasons,
    "reference/http-orders.md": lambda: http.page("orders"),
    "reference/http-products.md": lambda: http.page("products"),
    "reference/messages.md": messages.page,
    "reference/openapi-orders.json": lambda: http.formatted(http.document("orders")),
    "reference/openapi-products.json": lambda: http.formatted(http.document("products")),
    "reference/asyncapi.json": lambda: http.formatted(messages.document()),
}
"""Files that code writes: place on the site → text."""

ELSEWHERE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "deploy/kubernetes/README.md": "run/kubernetes.md",
}
"""Documents that are not in docs/: place in the repository → place on the site."""


def origin_of(uri: str) -> str:
    """Where a page of the site is in the repository; for a generated one, where it would be."""
    return next((path for path, it in ELSEWHERE.items() if it == uri), f"docs/{uri}")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for uri, text in GENERATED.items():
        files.append(File.generated(config, uri, content=text()))
    for path, uri in ELSEWHERE.items():
        files.append(File.generated(config, uri, content=(ROOT / path).read_text()))
    for path in sorted(_linked(files)):
        files.append(File.generated(config, links.copy_of(path), content=sources.copy(path, ROOT)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - by name
    uri = page.file.src_uri
    if uri == "reference/README.md":
        markdown = _with_links_to_generated(markdown)
    markdown = promises.filled(markdown, up="..")
    return links.rewritten(markdown, origin_of(uri), uri, _pages(files), ROOT)


def _with_links_to_generated(markdown: str) -> str:
    """A row `| settings | …` begins with a link to its page, which is not in the repository."""

    def link(match: re.Match[str]) -> str:
        name = match[1].lower().replace(": ", "-")
        return f"| [{match[1]}]({name}.md) |" if f"reference/{name}.md" in GENERATED else match[0]

    return re.sub(r"^\| ([\w: ]+) \|", link, markdown, flags=re.MULTILINE)


def _pages(files: Files) -> dict[str, str]:
    """Every file of the site that is in the repository too, or would be: place there → place on the site."""
    return {origin_of(it.src_uri): it.src_uri for it in files}


def _linked(files: Files) -> set[str]:
    """The files of the repository that pages link to and that are not part of the site themselves."""
    pages = _pages(files)
    documents = {it: promises.filled(it.content_string, up="..") for it in files.documentation_pages()}
    found = {path for it, text in documents.items() for path in links.targets(text, origin_of(it.src_uri))}
    return {it for it in found if it not in pages and (ROOT / it).is_file()}
