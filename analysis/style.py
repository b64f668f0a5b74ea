"""How every figure looks: palette, log axes a person can read, and saving as PNG and SVG."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

Floats = NDArray[np.float64]

INK = "#1f2430"
FAINT = "#9aa1ad"
OURS = "#1f4e9c"
SURFACE = "#7a3fa0"
KAPLAN = "#c8501e"
CHINCHILLA = "#17806d"

_RC: dict[Any, Any] = {
    "font.size": 10.0,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10.0,
    "axes.labelsize": 10.0,
    "axes.edgecolor": "#5b6270",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8ec",
    "grid.linewidth": 0.7,
    "xtick.color": "#5b6270",
    "ytick.color": "#5b6270",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.facecolor": "white",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.fontsize": 9.0,
    "lines.solid_capstyle": "round",
    "svg.hashsalt": "windtunnel",
    "savefig.facecolor": "white",
}

_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"), (1.0, ""))


@contextmanager
def house_style() -> Iterator[None]:
    """Apply the style inside a with block; the caller's settings come back after it."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    with mpl.rc_context(_RC):
        yield


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes, without any global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def save(figure: Figure, folder: Path, name: str, stamp: str) -> Path:
    """Write name.png and name.svg; `stamp` is printed across the top when it is not empty."""
    if stamp:
        figure.suptitle(stamp, color="#b00020", fontsize=11, fontweight="bold")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=170)
    figure.set_layout_engine("none")  # the layout is settled; once is half of the drawing time
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    return path


def budget_colors(flops: Floats) -> tuple[Colormap, LogNorm]:
    """Return viridis without its palest end, on a log scale of the values."""
    colors = mpl.colormaps["viridis"](np.linspace(0.0, 0.88, 256))
    low, high = float(flops.min()), float(flops.max())
    if high / low < 1.01:
        low, high = low / 2, high * 2
    return LinearSegmentedColormap.from_list("budget", list(colors)), LogNorm(low, high)


def log_axis(axis: Axis, kind: str) -> None:
    """Make an axis logarithmic with ticks at round numbers.

    Args:
        axis: ax.xaxis or ax.yaxis.
        kind: "count" prints 30k, 1M; "flops" prints powers of ten.
    """
    axis._set_axes_scale("log")  # type: ignore[attr-defined]
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    if decades > 3.2:
        subs: tuple[float, ...] = (1.0,)
    elif decades > 1.3:
        subs = (1.0, 3.0)
    else:
        subs = (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(base=10, subs=subs, numticks=15))
    axis.set_minor_locator(LogLocator(base=10, subs=tuple(np.arange(2.0, 10.0)), numticks=99))
    axis.set_minor_formatter(NullFormatter())
    write = count_label if kind == "count" else power_label
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))


def count_label(value: float) -> str:
    """Write 331776 as 332k and 1.5e9 as 1.5B."""
    for unit, suffix in _SUFFIXES:
        if value >= unit:
            return f"{value / unit:.3g}{suffix}"
    return f"{value:.3g}"


def power_label(value: float) -> str:
    """Write 3e12 as three times ten to the twelfth, in mathtext."""
    power = int(np.floor(np.log10(value) + 1e-9))
    lead = value / 10.0**power
    if abs(lead - 1) < 1e-6:
        return f"$10^{{{power}}}$"
    return f"${lead:.2g}\\times10^{{{power}}}$"
