"""Figures of drift: which columns changed in distribution, and whether the intervals still cover."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from mlkit.evaluation import coverage_noise
from mlkit.plots.look import BLUE, GREY, INK, PALE, RED, SKY, bars_ahead, date_axis, legend_above, row_axis


def drift_features(ax: Axes, table: pd.DataFrame, top: int = 12, *, level: float = 0.005) -> Axes:
    """Population stability index (PSI) of the columns that changed most, beside what is usual within the training span.

    Red bars are columns whose corrected p-value is at most ``level``: the distribution of the window differs from that
    of the training span.

    ``table``: ``features``, ``predictions`` or ``errors`` of a DriftReport.
    ``top``: columns shown.
    """
    rows = table.head(top)
    y = np.arange(len(rows))
    moved = rows["adjusted_p"].to_numpy(dtype=float) <= level
    for found, colour, label in ((~moved, SKY, "within the usual range"), (moved, RED, "moved")):
        if found.any():
            ax.barh(y[found], rows["psi"].to_numpy()[found], height=0.66, color=colour, label=label)
    ax.plot(rows["usual_psi"], y, "|", ms=13, mew=2.2, color=INK, label="usual in training")
    row_axis(ax, rows.index)
    ax.set_xlabel("population stability index against the training span")
    legend_above(ax, 3)
    return ax


def coverage_over_time(
    ax: Axes, monitored: pd.DataFrame, *, horizon: int = 1, level: int = 90, window: int = 100
) -> Axes:
    """Coverage of the last ``window`` outcomes, beside the nominal level and its sampling error.

    The band is two standard errors of the coverage that the true quantiles reach over as many overlapping outcomes.

    ``monitored``: of a DriftReport: timestamp, horizon, outcome, lo80 ... hi90.
    ``level``: 80 or 90.
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
    ax.set_ylabel(f"outcomes inside, {bars_ahead(horizon)} ahead")
    date_axis(ax)
    legend_above(ax, 3)
    return ax
