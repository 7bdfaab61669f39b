"""The style that all figures share: colours, sizes, legends and axes."""

import sys
from collections.abc import Iterable
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

# Palette of Okabe and Ito (2008), which colour-blind readers can distinguish. Rising is blue, falling is
# orange-red; a reference that a result is compared with is grey and dashed.
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
    """Set the style of the session; in a notebook also PNG figures at twice the resolution.

    For one figure only use ``with matplotlib.rc_context(plots.RC)``.
    """
    mpl.rcParams.update(RC)  # type: ignore[arg-type]  # the stubs want every key as a literal
    shell = sys.modules.get("IPython")
    if shell is not None and getattr(shell.get_ipython(), "kernel", None) is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina")  # type: ignore[no-untyped-call]


def words(name: object) -> str:
    """A column's name with spaces instead of underscores."""
    return str(name).replace("_", " ")


def bars_ahead(horizon: int) -> str:
    """``1 bar``, ``5 bars``."""
    return f"{horizon} bar{'s' if horizon > 1 else ''}"


def padded(low: float, high: float, share: float = 0.04) -> tuple[float, float]:
    """Axis limits with a margin on both sides, as a share of the range."""
    room = share * (high - low or 1.0)
    return low - room, high + room


def legend_above(ax: Axes, columns: int) -> None:
    """A legend in one row above the axes, where it covers no data."""
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=columns, borderaxespad=0.2, handlelength=1.4)


def legend_beside(ax: Axes) -> None:
    """A legend to the right of the axes, for many or long names."""
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), borderaxespad=0.0, handlelength=1.4)


def row_axis(ax: Axes, names: Iterable[object]) -> None:
    """Names of horizontal bars on the y axis, the first on top; the x axis starts at zero."""
    labels = [str(name) for name in names]
    ax.set_yticks(range(len(labels)), labels, fontsize=9 if len(labels) <= 12 else 8)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.set_xlim(left=0)
    ax.grid(axis="y", visible=False)


def horizon_axis(ax: Axes, horizons: Iterable[object]) -> None:
    """Horizons side by side on the x axis, at equal distances."""
    labels = [str(horizon) for horizon in horizons]
    ax.set_xticks(range(len(labels)), labels)
    ax.set_xlim(-0.5, len(labels) - 0.5)
    ax.grid(axis="x", visible=False)
    ax.set_xlabel("horizon (bars)")


def date_axis(ax: Axes) -> None:
    """Few and short dates on the x axis."""
    locator = AutoDateLocator(minticks=4, maxticks=9)  # type: ignore[no-untyped-call]
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
