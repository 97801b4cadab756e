"""The report of the benchmarks: one page that needs nothing else, and hides nothing."""

import re
from html.parser import HTMLParser

from benchmarks.report.page import page, table
from benchmarks.report.results import Skipped
from benchmarks.report.tables import Table
from tests.support.data.bench_results import a_run, some_results

VOID = a_run("fast-peer", 5, pair=2, void="3 answered & not <stored>")
RUNS = [a_run(rate=6_000), a_run("sync-tuned", 500), a_run("fast-peer", 1_000), VOID]
PLOTS = {"throughput": '<svg id="drawn"></svg>'}
_WITHOUT_END = {"meta", "link", "br", "img", "input"}


class _Nesting(HTMLParser):
    """Raises AssertionError when something is not closed, or closed in the wrong order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in _WITHOUT_END:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_verdict_comes_first() -> None:
    html = page(some_results(*RUNS[:3]), PLOTS, "")
    assert html.index("Headrace sustains 6,000 orders/s") < html.index("<h2")
    assert '<svg id="drawn">' in html


def test_a_void_run_is_told_in_the_verdict_and_with_its_reason() -> None:
    html = page(some_results(*RUNS), PLOTS, "")
    assert '<p class="verdict void">1 run lost orders' in html
    assert "3 answered &amp; not &lt;stored&gt;" in html
    assert '<span class="remark">1 VOID</span>' in html


def test_it_needs_nothing_else() -> None:
    html = page(some_results(*RUNS), PLOTS, "")
    assert re.findall(r"<script|<link|<img|https?://|@import|url\(", html) == []


def test_every_element_is_closed_and_what_contenders_say_is_text() -> None:
    html = page(some_results(*RUNS, skipped=[Skipped("soak", "<b>", "a & b")]), PLOTS, "")
    nesting = _Nesting()
    nesting.feed(html)
    assert nesting.open == []
    assert "a &lt;fast&gt; peer" in html
    assert "<b></b>" not in html


def test_every_link_leads_to_a_section_of_the_page() -> None:
    html = page(some_results(*RUNS), PLOTS, "")
    targets = re.findall(r'href="#([^"]+)"', html)
    assert len(targets) > 5
    assert [it for it in targets if f'id="{it}"' not in html] == []


def test_what_was_not_measured_has_no_empty_section() -> None:
    html = page(some_results(a_run()), {}, "")
    assert "Grown tables" not in html
    assert "What to beware of" in html
    assert "not measured" in html


def test_a_run_without_anything_is_a_page_too() -> None:
    assert "Headrace was not compared with anything" in page(some_results(interrupted=True), {}, "")


def test_met_and_missed_can_be_told_apart_without_colours() -> None:
    html = table(Table(("goal", ""), [("a", "met"), ("b", "**missed**")], words=(0, 1)))
    assert '<span class="met">✓ met</span>' in html
    assert '<span class="missed">✗ missed</span>' in html
