"""The report as one page that needs nothing else: no script, no font, no network. Pure: plots go in, HTML comes out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape

from benchmarks.report import goals, rates, results, sentences, tables
from benchmarks.report.number_format import NOTHING, number, times
from benchmarks.report.results import Results
from benchmarks.report.tables import Table

_CSS = """
:root { --paper: #fff; --ink: #1f2328; --muted: #59636e; --rule: #d8dee4; --band: #f6f8fa; --ours: #0a66d6;
  --good: #1a7f37; --bad: #cf222e; --warn: #9a6700; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --ink: #e6edf3; --muted: #9198a1; --rule: #2a313c;
  --band: #151b23; --ours: #4c9aff; --good: #3fb950; --bad: #ff7b72; --warn: #d29922; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 2.5rem 1.5rem 5rem; }
h1 { font-size: .95rem; font-weight: 600; color: var(--muted); margin: 0 0 .6rem; }
.verdict { font-size: 1.75rem; line-height: 1.3; font-weight: 650; letter-spacing: -.01em; margin: 0 0 1rem;
  max-width: 46rem; text-wrap: balance; }
.void { color: var(--bad); }
h2 { font-size: 1.25rem; margin: 3.2rem 0 .4rem; padding-top: 1.2rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 2rem 0 .3rem; }
p, li { max-width: 48rem; } p { margin: .5rem 0; } .muted, .below { color: var(--muted); } .below { font-size: .88rem; }
nav { font-size: .9rem; margin: 1.6rem 0 0; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; }
a { color: var(--ours); text-decoration: none; } a:hover { text-decoration: underline; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11.5rem, 1fr)); gap: .8rem; margin: 1.8rem 0 0;
  padding: 0; list-style: none; }
.tiles li { background: var(--band); border: 1px solid var(--rule); border-radius: .5rem; padding: .8rem 1rem; }
.tiles b { display: block; font-size: 1.55rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--muted); font-size: .85rem; line-height: 1.35; display: block; }
.beware { border-left: 3px solid var(--warn); background: var(--band); padding: .6rem 1rem; margin: 1.4rem 0 0; }
.beware ul { margin: 0; padding-left: 1.1rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; min-width: 60%; }
th, td { padding: .42rem .7rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--rule); }
th { color: var(--muted); font-weight: 600; vertical-align: bottom; border-bottom-width: 2px; }
th.words, td.words { text-align: left; } td.long { min-width: 17rem; } td:first-child { min-width: 9.5rem; }
tr:hover td { background: var(--band); } tr.ours td { background: color-mix(in srgb, var(--ours) 9%, transparent); }
.met { color: var(--good); font-weight: 600; } .missed { color: var(--bad); font-weight: 600; }
.remark { color: var(--bad); font-weight: 600; }
svg { display: block; width: 100%; height: auto; max-width: 54rem; margin: 1rem 0; }
footer { margin-top: 4rem; color: var(--muted); font-size: .85rem; }
"""
_REMARKS = re.compile(r"(\d[\d,]* (?:VOID|FAILED|GENERATOR-BOUND|errors)|^VOID$|^FAILED$)")
_LONG = 80


def page(found: Results, plots: Mapping[str, str], plot_css: str) -> str:
    """The whole document. `plots`: name → SVG, see plots.PLOTS; what has no plot has its table all the same."""
    sections = [(title, text) for title, text in _sections(found, plots) if text]
    links = "".join(f'<a href="#{_anchor(title)}">{escape(title)}</a>' for title, _ in sections)
    body = "\n".join(f'<h2 id="{_anchor(title)}">{escape(title)}</h2>\n{text}' for title, text in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Headrace, measured {escape(found.started_at[:10])}</title>"
        f"<style>{_CSS}\n{plot_css}</style></head>\n<body><main>\n"
        f"{_head(found)}\n<nav>{links}</nav>\n{body}\n{_foot(found)}\n</main></body></html>\n"
    )


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _head(found: Results) -> str:
    is_void = ' class="verdict void"' if results.void_runs(found) else ' class="verdict"'
    here = f"{found.machine.cpu}, {found.machine.cores} cores, {found.started_at[:10]}"
    beware = sentences.beware(found)
    warning = (
        f'<div class="beware"><ul>{"".join(f"<li>{escape(it)}</li>" for it in beware)}</ul></div>' if beware else ""
    )
    return (
        f"<h1>Headrace: how fast, beside what, at what price · {escape(here)}</h1>\n"
        f"<p{is_void}>{escape(sentences.verdict(found))}</p>\n"
        f'<p class="muted">{escape(sentences.correctness(found))}</p>\n{_tiles(found)}\n{warning}'
    )


def _tiles(found: Results) -> str:
    said = results.verdict(found)
    cost = sum(said.cpu_us_per_order.values()) or None
    tiles = [
        (number(said.headrace_orders_per_s), "orders/s end to end, 256 connections"),
        (times(said.ratio_sync_tuned), "as many as the tuned synchronous design"),
        (
            times(said.ratio_best_peer),
            f"as many as {tables.title_of(found, said.best_peer or 'the best peer')}",
        ),
        (f"{number(cost)} µs" if cost else NOTHING, "CPU for each order, all parts"),
        (number(said.bulk_orders_per_s), "orders/s in requests of 500"),
    ]
    shown = [(value, words) for value, words in tiles if value != NOTHING]
    items = "".join(f"<li><b>{value}</b><span>{escape(words)}</span></li>" for value, words in shown)
    return f'<ul class="tiles">{items}</ul>'


def _sections(found: Results, plots: Mapping[str, str]) -> list[tuple[str, str]]:
    """The sections, in the order of a sceptic's questions."""
    judged = goals.judge([found])
    return [
        ("Goals", f"<p>{sentences.goals_met(judged)}</p>" + table(tables.goals_table([found]))),
        ("Where it was measured", table(sentences.environment(found))),
        (
            "Side by side",
            _block(
                "Everybody takes the same orders, one contender after the other, again and again. An order counts when"
                " its row is in PostgreSQL and its stock has moved; “Headrace ÷ this” is the median of the pairs.",
                plots.get("throughput"),
                tables.comparison(found),
            )
            + _titled("With 64 connections", tables.fewer_connections(found)),
        ),
        (
            "At what price",
            _block("User and system time of every process, the drain included.", plots.get("cpu"), tables.cpu(found)),
        ),
        (
            "Latency",
            _block(
                "Orders arrive at random, whether or not earlier ones were answered.",
                plots.get("latency"),
                rates.open_loop(found),
            )
            + _titled("The generators, on an endpoint that does nothing", rates.generators(found)),
        ),
        ("How near to the limit", _block("", None, tables.limits(found))),
        (
            "What each thing costs",
            _block("Headrace with one thing taken away, or put back.", plots.get("ablations"), tables.ablations(found)),
        ),
        ("One hot product", _block("", None, tables.hot_product(found))),
        ("Grown tables", _block("", plots.get("growth"), tables.growth(found))),
        (
            "A backlog",
            _block(
                "Orders that wait in the queue when the workers start.", plots.get("backlog"), tables.backlog(found)
            ),
        ),
        ("Void and failed", _block("They are in no figure above.", None, sentences.not_counted(found))),
        ("What was left out", table(left_out) if (left_out := sentences.skipped(found)) else ""),
        ("Who was compared", table(compared) if (compared := sentences.guarantees(found)) else ""),
        ("What to beware of", f"<ul>{''.join(f'<li>{escape(it)}</li>' for it in sentences.LIMITATIONS)}</ul>"),
    ]


def _block(words: str, plot: str | None, figures: Table | None) -> str:
    """One block of HTML; empty if there is nothing to show."""
    if figures is None:
        return ""
    return (f"<p>{escape(words)}</p>\n" if words else "") + (plot or "") + table(figures)


def _titled(title: str, figures: Table | None) -> str:
    return f"<h3>{escape(title)}</h3>\n{table(figures)}" if figures else ""


def table(figures: Table) -> str:
    head = "".join(_cell("th", place, text, figures) for place, text in enumerate(figures.head))
    rows = "\n".join(_row(row, figures) for row in figures.rows)
    below = f'\n<p class="below">{escape(figures.below)}</p>' if figures.below else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>{below}'


def _row(row: tuple[str, ...], figures: Table) -> str:
    cells = "".join(_cell("td", place, text, figures) for place, text in enumerate(row))
    return f'<tr class="ours">{cells}</tr>' if row[0].startswith("**") else f"<tr>{cells}</tr>"


def _cell(tag: str, place: int, text: str, figures: Table) -> str:
    is_words = place in figures.words
    classes = ["words"] * is_words + ["long"] * (is_words and len(text) > _LONG)
    attribute = f' class="{" ".join(classes)}"' if classes else ""
    return f"<{tag}{attribute}>{_marked_up(text)}</{tag}>"


def _marked_up(text: str) -> str:
    """The little Markdown that tables use, and what must not be overlooked."""
    if text in ("met", "**missed**"):
        word = text.strip("*")
        return f'<span class="{word}">{"✓" if word == "met" else "✗"} {word}</span>'
    html = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(text))
    html = re.sub(r"`(.+?)`", r"<code>\1</code>", html)
    return _REMARKS.sub(r'<span class="remark">\1</span>', html)


def _foot(found: Results) -> str:
    commit = f" at commit {found.revision}" if found.revision else ""
    words = " --quick" * found.quick + (f" --only {found.only}" if found.only else "")
    command = f"<code>./headrace bench{escape(words)}</code>"
    return f"<footer>Measured by {command}{escape(commit)}; all of this page is from one result file.</footer>"
