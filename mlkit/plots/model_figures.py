"""Figures of the models: learning curves, feature importance, grouped bars."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mlkit.plots.look import BLUE, GREEN, GREY, INK, PALETTE, RED, SKY, legend_above, row_axis, words


def grouped_bars(ax: Axes, table: pd.DataFrame, *, unit: str, digits: int = 3) -> Axes:
    """Horizontal bars, one group a row in the table's order and one colour a column, values at their ends."""
    n_rows, n_columns = table.shape
    height = 0.8 / n_columns
    largest = float(np.nanmax(np.abs(table.to_numpy(dtype=float)), initial=0.0)) or 1.0
    for k, name in enumerate(table.columns):
        values = table[name].to_numpy(dtype=float)
        y = np.arange(n_rows) + (k - (n_columns - 1) / 2) * height
        drawn = ax.barh(y, np.nan_to_num(values), height * 0.92, color=PALETTE[k % len(PALETTE)], label=str(name))
        text = ["n/a" if np.isnan(v) else f"{v:.{digits}g}" for v in values]
        ax.bar_label(drawn, labels=text, padding=3, fontsize=8 if n_columns < 3 else 7)
    ax.set_yticks(range(n_rows), [words(name) for name in table.index])
    ax.set_ylim(n_rows - 0.5, -0.5)
    lowest = float(np.nanmin(table.to_numpy(dtype=float), initial=0.0))
    ax.set_xlim(lowest * 1.15, largest * 1.15)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(unit)
    if n_columns > 1:
        legend_above(ax, n_columns)
    return ax


def learning_curve(ax: Axes, history: pd.DataFrame, *, unit: str = "loss") -> Axes:
    """Loss by epoch, a line for each column; the best epoch of a ``valid...`` column is marked.

    ``history``: (n_epochs, n_curves), index the epoch.
    """
    epochs = history.index.to_numpy()
    for k, name in enumerate(history.columns):
        values = history[name].to_numpy(dtype=float)
        ax.plot(epochs, values, marker="o", ms=3, color=PALETTE[k % len(PALETTE)], label=words(name))
        if str(name).startswith("val"):
            best = int(np.nanargmin(values))
            ax.axvline(epochs[best], color=GREY, ls="--", lw=1)
            ring: dict[str, Any] = {"ms": 8, "mfc": "none", "color": INK}
            ax.plot(epochs[best], values[best], "o", label=f"best: epoch {epochs[best]}", **ring)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="epoch", ylabel=unit)
    ax.legend()
    return ax


def importance(ax: Axes, table: pd.Series | pd.DataFrame, top: int = 20, *, unit: str = "share of all gain") -> Axes:
    """The ``top`` features: a bar for the mean, and a dot for each model if the table has several columns.

    ``table``: index the feature name; a Series, or a DataFrame with a numeric column for each model and, where the
    models are weighted, a column ``mean``.
    """
    frame = table.to_frame() if isinstance(table, pd.Series) else table.select_dtypes("number")
    mean = frame["mean"] if "mean" in frame else frame.mean(axis=1)
    frame = frame.drop(columns="mean", errors="ignore")
    order = mean.sort_values(ascending=False, kind="stable").index[:top]
    y = np.arange(len(order))
    ax.barh(y, mean[order], height=0.66, color=SKY if frame.shape[1] > 1 else BLUE, label="mean")
    if frame.shape[1] > 1:
        for k, name in enumerate(frame.columns):
            ax.plot(frame.loc[order, name], y, "o", ms=4.5, color=(INK, RED, GREEN)[k % 3], label=words(name))
        ax.legend(loc="lower right")
    row_axis(ax, order)
    ax.set_xlabel(unit)
    return ax
