"""Figures of drift: which inputs moved, and whether the intervals still hold."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from mlkit.evaluation import coverage_noise
from mlkit.plots.look import BLUE, GREY, INK, PALE, RED, SKY, date_axis, legend_above


def drift_features(ax: Axes, table: pd.DataFrame, top: int = 12, *, level: float = 0.005) -> Axes:
    """PSI of the columns that moved most against the training, beside what is usual for a window of the training.

    Bars in red are columns whose corrected p-value is under ``level``: the window is not like the training's own.

    Parameters
    ----------
    table : ``features``, ``predictions`` or ``errors`` of a DriftReport.
    top : columns shown.
    """
    rows = table.head(top)
    y = np.arange(len(rows))
    moved = rows["adjusted_p"].to_numpy(dtype=float) <= level
    for found, colour, label in ((~moved, SKY, "within the usual range"), (moved, RED, "moved")):
        if found.any():
            ax.barh(y[found], rows["psi"].to_numpy()[found], height=0.66, color=colour, label=label)
    ax.plot(rows["usual_psi"], y, "|", ms=13, mew=2.2, color=INK, label="usual in training")
    ax.set_yticks(y, [str(name) for name in rows.index], fontsize=9 if top <= 12 else 8)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(left=0)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("population stability index against the training span")
    legend_above(ax, 3)
    return ax


def coverage_over_time(
    ax: Axes, monitored: pd.DataFrame, *, horizon: int = 1, level: int = 90, window: int = 100
) -> Axes:
    """Share of the last ``window`` outcomes inside their intervals, beside what was promised and its noise.

    The band is two standard errors of an oracle's coverage over as many overlapping outcomes.

    Parameters
    ----------
    monitored : of a DriftReport: timestamp, horizon, outcome, lo80 ... hi90.
    level : 80 or 90.
    """
    rows = monitored[(monitored["horizon"] == horizon) & monitored["outcome"].notna()]
    inside = rows["outcome"].between(rows[f"lo{level}"], rows[f"hi{level}"])
    share = inside.astype(float).rolling(window).mean()
    promised, noise = level / 100.0, 2.0 * coverage_noise(window, horizon, level / 100.0)
    ax.axhspan(promised - noise, min(promised + noise, 1.0), color=PALE, label="noise of perfect intervals")
    ax.axhline(promised, color=GREY, ls="--", lw=1.2, label=f"promised {level} %")
    ax.plot(rows["timestamp"], share, color=BLUE, label=f"last {window} outcomes")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_ylim(min(0.95 * float(share.min()), promised - 1.5 * noise), 1.005)
    ahead = f"{horizon} bar{'s' if horizon > 1 else ''} ahead"
    ax.set_ylabel(f"outcomes inside, {ahead}")
    date_axis(ax)
    legend_above(ax, 3)
    return ax
