"""The documentation builds without a warning, is shown by `./headrace docs`, and loads nothing from other hosts."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from docs.generate.hook import ELSEWHERE, GENERATED
from stack.develop import docs
from stack.errors import HeadraceError
from stack.home.directory import ROOT, Home
from tests.support.services.processes import free_port

_LOADED = re.compile(r"""<(?:script|img|link rel="(?:stylesheet|icon|preload)")[^>]*?(?:src|href)="?(https?:[^" >]+)""")


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_another_host(tmp_path: Path) -> None:
    site = docs.build_site(Home(tmp_path / "home"))
    pages = {it: it.read_text() for it in site.rglob("index.html")}
    assert len(pages) > 30
    assert [(it, _LOADED.findall(text)) for it, text in pages.items() if _LOADED.search(text)] == []
    for uri in (*GENERATED, *ELSEWHERE.values()):
        built = site / uri.replace("README.md", "index.html").replace(".md", "/index.html")
        assert built.stat().st_size > 1_000, uri
    links = re.findall(r'href="\.\./(source/tests/[^"#]+)#(test_[^"]+)"', pages[site / "guarantees" / "index.html"])
    assert len(links) > 50
    assert [it for it in links if f'id="{it[1]}"' not in (site / it[0]).read_text()] == []


def test_a_link_to_nothing_is_an_error_that_names_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[nothing](nothing.md)\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: x\nvalidation: {links: {not_found: warn}}\n")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    with pytest.raises(HeadraceError, match="cannot build") as error:
        docs.build_site(Home(tmp_path / "home"))
    assert "'nothing.md'" in "\n".join(error.value.lines())


def test_without_mkdocs_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(HeadraceError, match="MkDocs is not installed"):
        docs.build_site(Home(tmp_path / "home"))


def test_a_port_that_is_in_use_is_an_error_that_names_another(tmp_path: Path) -> None:
    with socket.create_server((docs.HOST, 0)) as taken, pytest.raises(HeadraceError) as error:
        docs.serve_site(tmp_path, taken.getsockname()[1], is_opened=False)
    assert "something else listens there" in "\n".join(error.value.lines())
    assert f"--port {taken_port(error.value) + 1}" in "\n".join(error.value.lines())


def taken_port(error: HeadraceError) -> int:
    return int(error.what.rpartition(":")[2])


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`serve_site` of a directory with one page, and its address."""
    (tmp_path / "index.html").write_text("a page")
    code = f"from stack.develop.docs import *; serve_site(Path({str(tmp_path)!r}), {free_port()}, is_opened=False)"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell starts what it puts in the background with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout
    yield process, process.stdout.readline().split()[0]
    process.kill()
    process.communicate()


def test_it_is_shown_on_the_loopback_until_ctrl_c(shown: tuple[subprocess.Popen[str], str]) -> None:
    process, address = shown
    assert address.startswith("http://127.0.0.1:")
    with urlopen(address) as answer:
        assert answer.read() == b"a page"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")
