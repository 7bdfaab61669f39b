"""The look that all figures share: colours, sizes, legends and date axes."""

import sys
from typing import Any

import matplotlib as mpl
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

# Okabe and Ito (2008): colour-blind readers can tell these apart. Rising is blue, falling is orange-red;
# what a result is compared against is grey and dashed.
BLUE, RED, GREEN, SKY, ORANGE, PINK = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#E69F00", "#CC79A7"
INK, GREY, PALE = "#24292f", "#6e7781", "#d8dee4"
PALETTE = (BLUE, RED, GREEN, ORANGE, SKY, PINK)

RC: dict[str, Any] = {
    "figure.figsize": (8.0, 3.6),
    "figure.constrained_layout.use": True,
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=PALETTE),
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
}


def style() -> None:
    """Set the look for the session, and in a notebook crisp PNG figures (2x), the same bytes on every run.

    For one figure only use ``with matplotlib.rc_context(plots.RC)``.
    """
    mpl.rcParams.update(RC)  # type: ignore[arg-type]  # the stubs want every key as a literal
    shell = sys.modules.get("IPython")
    if shell is not None and getattr(shell.get_ipython(), "kernel", None) is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina")  # type: ignore[no-untyped-call]


def words(name: object) -> str:
    """A column's name as it is read."""
    return str(name).replace("_", " ")


def padded(low: float, high: float, share: float = 0.04) -> tuple[float, float]:
    """Axis limits with a little room on both sides."""
    room = share * (high - low or 1.0)
    return low - room, high + room


def legend_above(ax: Axes, columns: int) -> None:
    """A legend in one row over the axes, where it covers no data."""
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=columns, borderaxespad=0.2, handlelength=1.4)


def legend_beside(ax: Axes) -> None:
    """A legend to the right of the axes, for many or long names."""
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), borderaxespad=0.0, handlelength=1.4)


def date_axis(ax: Axes) -> None:
    """Few and short dates on the x axis."""
    locator = AutoDateLocator(minticks=4, maxticks=9)  # type: ignore[no-untyped-call]
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def duration(gap: pd.Timedelta) -> str:
    """A time span in its largest unit, such as ``3 d``."""
    seconds = int(gap.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds} s"
