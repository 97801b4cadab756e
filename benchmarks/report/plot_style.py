"""How all plots look, and how a figure of matplotlib's becomes an SVG that follows the reader's light or dark.

matplotlib knows one colour for each thing. So plots use names of colours that stand for a pair, and the SVG gets CSS
variables in their place: the browser takes one of the pair. The same figures give the same bytes, wherever they are
drawn: no date, no random ids, text as text in whatever sans-serif the reader has.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

WIDTH_IN = 8.4
"""605 points, which a browser shows as 806 pixels: what a README is wide."""
TITLE_IN = 0.62
"""Above the axes, for the two lines of the title."""

# name → (light, dark). The key that matplotlib gets is made from the place in this table.
_PAIRS = {
    "paper": ("#ffffff", "#0d1117"),
    "ink": ("#1f2328", "#e6edf3"),
    "muted": ("#59636e", "#9198a1"),
    "grid": ("#d8dee4", "#2a313c"),
    "ours": ("#0a66d6", "#4c9aff"),
    "ours_too": ("#7fb2f0", "#2b5c9e"),
    "other": ("#afb8c1", "#57606a"),
    "bad": ("#cf222e", "#ff7b72"),
    "API": ("#0a66d6", "#4c9aff"),
    "RabbitMQ": ("#e0701b", "#f0883e"),
    "worker": ("#1a8a45", "#3fb950"),
    "stock worker": ("#84cf9a", "#1f6f3c"),
    "PostgreSQL": ("#7b4bd6", "#b08cff"),
    "Redis": ("#b3272f", "#ff9a92"),
}
_KEYS = {name: f"#0{place:x}fe0{place:x}" for place, name in enumerate(_PAIRS)}
_FONT = "font-family: system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"


def colour(name: str) -> str:
    """What to tell matplotlib. Raises KeyError."""
    return _KEYS[name]


def css() -> str:
    """The variables that the SVGs use, for a page that has them in it."""
    light, dark = (
        " ".join(f"--plot-{_variable(name)}: {pair[which]};" for name, pair in _PAIRS.items()) for which in (0, 1)
    )
    return f"svg {{ {light} }} @media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}"


def standalone(svg: str) -> str:
    """As a file of its own: it brings the colours and a ground for them, whatever page it stands on."""
    return svg.replace(">", f"><style>{css()} text {{ {_FONT} }}</style>", 1)


def new_figure(rows: float, title: str, subtitle: str) -> tuple[Figure, Any]:
    """A figure with one pair of axes that is `rows` bars high, titled on the left."""
    height_in = TITLE_IN + 0.36 * rows + 0.62
    mpl.rcParams.update(_settings())
    figure = Figure(figsize=(WIDTH_IN, height_in), facecolor=colour("paper"))
    axes = figure.add_axes((0.29, 0.56 / height_in, 0.68, (0.36 * rows) / height_in))
    axes.set_facecolor(colour("paper"))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.text(0.012, 1 - 0.25 / height_in, title, fontsize=12.5, fontweight="bold", color=colour("ink"))
    figure.text(0.012, 1 - 0.46 / height_in, subtitle, fontsize=9.5, color=colour("muted"))
    return figure, axes


def bars(axes: Any, names: Sequence[str], unit: str) -> None:
    """Axes for horizontal bars, the first one at the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=colour("ink"))
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(unit, color=colour("muted"))
    axes.set_xlim(left=0)
    axes.grid(axis="x", color=colour("grid"), linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter("{x:,.0f}")


def to_svg(figure: Figure) -> str:
    """Without an XML head, and with variables for colours."""
    output = io.StringIO()
    figure.savefig(output, format="svg", metadata={"Date": None, "Creator": None})
    svg = output.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: (?:(bold|700) )?([\d.]+)px [^;\"]*(?=[;\"])", _font, svg)
    svg = re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)
    for name, key in _KEYS.items():
        svg = svg.replace(key, f"var(--plot-{_variable(name)})")
    return svg.strip() + "\n"


def _font(found: re.Match[str]) -> str:
    """Its size and weight; the family is that of the page."""
    return f"font-size: {found[2]}px" + f"; font-weight: {found[1]}" * bool(found[1])


def _variable(name: str) -> str:
    return name.lower().replace(" ", "-").replace("_", "-")


def _settings() -> dict[str, Any]:
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "headrace",
        "svg.id": None,
        "font.family": "sans-serif",
        "font.size": 10,
        "hatch.linewidth": 1.2,
        "text.color": colour("ink"),
        "axes.edgecolor": colour("grid"),
        "axes.labelcolor": colour("muted"),
        "xtick.color": colour("muted"),
        "ytick.color": colour("muted"),
        "xtick.labelcolor": colour("muted"),
        "ytick.labelcolor": colour("muted"),
        "hatch.color": colour("bad"),
    }
