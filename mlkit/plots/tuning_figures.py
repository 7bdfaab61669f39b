"""Figures of a tuning study, from its table of trials."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from mlkit.plots.look import BLUE, GREY, INK, PALE, RED, legend_above, words


def tuning_history(ax: Axes, trials: pd.DataFrame, *, unit: str = "loss (no change = 1)") -> Axes:
    """Score of every trial in order, and the best so far; a pruned trial is a cross at its last score.

    ``trials``: index the trial's number; columns ``state``, ``score``, ``default``.
    """
    done, pruned = (trials[trials["state"] == state] for state in ("complete", "pruned"))
    ax.plot(done.index, done["score"], "o", ms=5, color=BLUE, label="complete")
    if len(pruned):
        ax.plot(pruned.index, pruned["score"], "x", ms=6, color=GREY, label="pruned")
    best = trials["score"].where(trials["state"] == "complete").cummin().ffill()
    ax.step(best.index, best, where="post", color=RED, lw=1.4, label="best so far")
    default = done.loc[done["default"], "score"]
    if len(default):
        ax.axhline(default.iloc[0], color=GREY, ls="--", lw=1.2, label="default parameters")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="trial", ylabel=unit)
    legend_above(ax, 4)
    return ax


def tuning_slice(ax: Axes, trials: pd.DataFrame, parameter: str, *, log: bool = False, unit: str = "loss") -> Axes:
    """Score against one parameter, later trials darker; the default is marked by a ring, the best by a star."""
    done = trials[trials["state"] == "complete"]
    shade = np.linspace(0.25, 1.0, len(done)) if len(done) > 1 else np.ones(len(done))
    ax.scatter(done[parameter], done["score"], c=shade, cmap="Blues", vmin=0.0, vmax=1.0, s=28, ec=PALE, lw=0.5)
    for rows, marker, size, colour in (
        (done[done["default"]], "o", 11, INK),
        (done.nsmallest(1, "score"), "*", 13, RED),
    ):
        ax.plot(rows[parameter], rows["score"], marker, ms=size, mfc="none", mec=colour, mew=1.3)
    if log:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=6))
        ax.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel=words(parameter), ylabel=unit)
    return ax
