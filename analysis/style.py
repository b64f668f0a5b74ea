"""How every figure looks: palette, log axes a person can read, and saving as PNG and SVG.

A palette colour has a light and a dark value. Matplotlib draws the light ones; in a page,
`themed` turns them into CSS variables, so that one vector image serves both themes.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import ListedColormap, LogNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Scale = ListedColormap
Norm = LogNorm

PAPER = "#ffffff"
INK = "#1f2430"
SOFT = "#5b6270"
FAINT = "#9aa1ad"
GRID = "#e6e8ec"
OURS = "#1f4e9c"
SURFACE = "#a8307a"
ENVELOPE = "#8a6100"
KAPLAN = "#c8501e"
CHINCHILLA = "#17806d"
WARN = "#b00020"

_STEPS = 24
"""Shades of the sequential scale: few enough to be CSS variables, too many to be seen."""


def _shades(low: float, high: float) -> list[str]:
    return [to_hex(c) for c in mpl.colormaps["viridis"](np.linspace(low, high, _STEPS))]


_LIGHT_SHADES, _DARK_SHADES = _shades(0.0, 0.79), _shades(0.28, 1.0)

THEME: dict[str, tuple[str, str]] = {
    "paper": (PAPER, "#1b1f27"),
    "ink": (INK, "#e7e9ee"),
    "soft": (SOFT, "#a9b0bd"),
    "faint": (FAINT, "#7c8494"),
    "grid": (GRID, "#2e3440"),
    "ours": (OURS, "#8db4f5"),
    "surface": (SURFACE, "#f28ac8"),
    "envelope": (ENVELOPE, "#e0b04a"),
    "kaplan": (KAPLAN, "#f5925f"),
    "chinchilla": (CHINCHILLA, "#5fcdb6"),
    "warn": (WARN, "#ff8d85"),
    **{f"s{k}": pair for k, pair in enumerate(zip(_LIGHT_SHADES, _DARK_SHADES, strict=True))},
}
"""CSS variable of a figure's colour (without the `--f-`): its light and its dark value."""

_RC: dict[Any, Any] = {
    "font.size": 10.0,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10.0,
    "axes.labelsize": 10.0,
    "axes.edgecolor": SOFT,
    "axes.facecolor": PAPER,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.facecolor": PAPER,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.fontsize": 9.0,
    "lines.solid_capstyle": "round",
    "svg.hashsalt": "windtunnel",
    "savefig.facecolor": PAPER,
}

_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"), (1.0, ""))

MANY_POINTS = 2000
"""Points of one cloud from which they are an image inside the vector figure."""

_PNG_DPI, _RASTER_DPI = 160, 150


@contextmanager
def house_style() -> Iterator[None]:
    """Apply the style inside a with block; the caller's settings come back after it."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    with mpl.rc_context(_RC):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that many inches, without any global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, folder: Path, name: str, stamp: str) -> Path:
    """Write name.png and name.svg; `stamp` is printed across the top when it is not empty."""
    if stamp:
        figure.suptitle(stamp, color=WARN, fontsize=11, fontweight="bold")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    # The canvases' own writers draw once; savefig draws everything a first time for the layout.
    figure.dpi = _PNG_DPI
    FigureCanvasAgg(figure).print_png(path)  # type: ignore[no-untyped-call]
    figure.set_layout_engine("none")  # it is settled now
    figure.dpi = _RASTER_DPI
    vector = FigureCanvasSVG(figure)
    vector.print_svg(path.with_suffix(".svg"), metadata={"Date": None})  # type: ignore[no-untyped-call]
    return path


def themed(svg: str, name: str, title: str) -> str:
    """Return an SVG file's text as an element of a page that follows the page's theme.

    Args:
        svg: What Matplotlib wrote.
        name: Unique in the page; put before every id, which Matplotlib repeats between figures.
        title: Text alternative.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", body)
    variables = {light: f"var(--f-{key})" for key, (light, _) in THEME.items()}
    body = re.sub(
        r"(fill|stroke): (#[0-9a-f]{6})",
        lambda m: f"{m[1]}: {variables.get(m[2], m[2])}",
        body,
    )
    head, rest = body.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    label = f'<title id="{name}-title">{title}</title>'
    return f'{head} role="img" aria-labelledby="{name}-title">{label}{rest}'


def theme_css() -> tuple[str, str]:
    """Return the CSS declarations of the figures' colours for the light and the dark theme."""
    light, dark = ("".join(f"--f-{key}:{pair[k]};" for key, pair in THEME.items()) for k in (0, 1))
    return light, dark


def budget_colors(values: Floats) -> tuple[ListedColormap, LogNorm]:
    """Return the sequential scale, on a log scale of the values."""
    low, high = float(values.min()), float(values.max())
    if high / low < 1.01:
        low, high = low / 2, high * 2
    return ListedColormap(_LIGHT_SHADES, "budget"), LogNorm(low, high)


def color_bar(
    figure: Figure,
    axes: Axes | list[Axes],
    colors: tuple[ListedColormap, LogNorm],
    kind: str,
    label: str,
) -> Colorbar:
    """Add the key of a sequential scale at the right of `axes`; `kind` as in log_axis."""
    cmap, norm = colors
    bar = figure.colorbar(ScalarMappable(norm, cmap), ax=axes, pad=0.015, aspect=32)
    log_axis(bar.ax.yaxis, kind)
    bar.set_label(label)
    bar.outline.set_visible(False)
    return bar


def corner_note(ax: Axes, text: str) -> None:
    """Write a small remark above the upper right corner."""
    ax.annotate(
        text,
        (1.0, 1.01),
        xycoords="axes fraction",
        ha="right",
        va="bottom",
        color=SOFT,
        fontsize=8.5,
    )


def literal(text: str) -> str:
    """Return a user's words as Matplotlib shows them letter by letter.

    A dollar sign would begin a formula, and a letter that the font lacks would be an empty box.
    """
    known = get_font(findfont("DejaVu Sans")).get_charmap()
    shown = "".join(mark if ord(mark) in known and mark.isprintable() else "?" for mark in text)
    return shown.replace("$", r"\$")


def raster(count: int) -> bool:
    """Return whether a cloud of that many points is better drawn as an image."""
    return count > MANY_POINTS


def log_axis(axis: Axis, kind: str) -> None:
    """Make an axis logarithmic with ticks at round numbers.

    Args:
        axis: ax.xaxis or ax.yaxis.
        kind: "count" prints 30k, 1M; "flops" prints powers of ten; "plain" 0.002.
    """
    axis._set_axes_scale("log")  # type: ignore[attr-defined]
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    if decades > 3.2:
        subs: tuple[float, ...] = (1.0,)
    elif decades > 1.3:
        subs = (1.0, 3.0)
    elif decades > 0.6:
        subs = (1.0, 2.0, 5.0)
    else:
        subs = (1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    axis.set_major_locator(LogLocator(base=10, subs=subs, numticks=15))
    axis.set_minor_locator(LogLocator(base=10, subs=tuple(np.arange(2.0, 10.0)), numticks=99))
    axis.set_minor_formatter(NullFormatter())
    write = {"count": count_label, "flops": power_label, "plain": plain_label}[kind]
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))


def count_label(value: float) -> str:
    """Write 331776 as 332k and 1.5e9 as 1.5B."""
    for unit, suffix in _SUFFIXES:
        if value >= unit:
            return f"{value / unit:.3g}{suffix}"
    return f"{value:.3g}"


def plain_label(value: float) -> str:
    """Write a number in at most three digits."""
    return f"{value:.3g}"


def power_label(value: float) -> str:
    """Write 3e12 as three times ten to the twelfth, in mathtext."""
    power = int(np.floor(np.log10(value) + 1e-9))
    lead = value / 10.0**power
    if abs(lead - 1) < 1e-6:
        return f"$10^{{{power}}}$"
    return f"${lead:.2g}\\times10^{{{power}}}$"
