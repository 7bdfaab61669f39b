"""The study on one small simulated file, and its summary on cells made by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.market.simulate.markets import null_market
from tests.bench.study import LEVELS, interval_cell, study_file, study_summary

HORIZONS = (1, 5)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("study")
    bars = null_market(4000, seed=1, timeframe="15m", symbol="NULL")
    bars.reset_index().to_parquet(folder / "NULL-15m.parquet")
    settings = mlkit.Settings(prediction_horizons=HORIZONS, ledger_path=folder / "ledger.jsonl")
    return study_file(folder / "NULL-15m.parquet", settings, cap=3000)


def test_a_market_without_an_edge_keeps_every_promise_but_luck(cells: pd.DataFrame) -> None:
    assert cells["horizon"].tolist() == list(HORIZONS)
    assert (cells["bars"] == 3000).all() and (cells["rows"] > 1400).all()
    assert (cells["r2"] >= -0.001).all() and (cells["verdict"] == "no edge").all()
    for level in LEVELS:
        assert cells[f"coverage_{level}"].to_numpy() == pytest.approx(level / 100, abs=0.03)
        best = cells[[f"ratio_{level}_{rival}" for rival in ("unconditional", "ewma", "garch")]].max(axis=1)
        assert (cells[f"ratio_{level}"] == best).all()
        assert (cells[f"ratio_{level}_garch"] < 1.03).all()  # the market is GARCH: no rival is better
    summary = study_summary(cells)
    assert summary.loc["R² against no change at least -0.001", "kept"] == 2
    assert (summary["cells"] == 2).all()


def test_ratios_and_terciles_by_hand() -> None:
    y = np.tile([-1.0, 0.5, 3.0], 40)
    of = {"outcome": y, "scale": np.repeat([1.0, 2.0, 3.0], 40)}
    for level in LEVELS:
        of |= {f"lo{level}": np.full(120, -2.0), f"hi{level}": np.full(120, 2.0)}
        for tail, width in (("", 4.0), ("_ewma", 2.0), ("_garch", 8.0)):
            of |= {f"low{level}{tail}": np.full(120, -width), f"high{level}{tail}": np.full(120, width)}
    cell = interval_cell(of, 1)
    assert cell["coverage_80"] == pytest.approx(2 / 3)
    assert [cell[f"{name}_80"] for name in ("low", "middle", "high")] == pytest.approx(
        [27 / 40, 27 / 40, 26 / 40], abs=0.03
    )
    assert cell["t_80"] == 0.0 and cell["t_worse_80"] < 0.0
    ours, wide = 4.0 + 10.0 / 3.0, 8.0
    assert cell["ratio_80_unconditional"] == pytest.approx(ours / wide)
    assert cell["ratio_80_ewma"] == pytest.approx(1.0) == cell["ratio_80"]


def test_summary_tells_noise_from_failure() -> None:
    base = {"file": "A", "horizon": 1, "r2": 0.0, "ece": 0.01, "ece_noise": 0.02}
    for level in LEVELS:
        share = level / 100
        base |= {f"coverage_{level}": share, f"noise_{level}": 0.03, f"tercile_noise_{level}": 0.05}
        base |= {f"{name}_{level}": share for name in ("low", "middle", "high")} | {f"ratio_{level}": 0.99}
        base |= {f"t_{level}": -3.0, f"t_worse_{level}": -5.0}
    noisy = base | {"file": "B", "coverage_80": 0.82, "high_90": 0.855}
    wrong = base | {"file": "C", "coverage_80": 0.7, "ratio_90": 1.01, "t_90": 2.5, "r2": -0.01, "ece": 0.5}
    table = study_summary(pd.DataFrame([base, noisy, wrong]))
    row = table.loc["80 % coverage within 1.5 points"]
    assert (row["kept"], row["beyond_noise"], row["worst"]) == (1, 1, "C at 1")
    # Noise of 0.03 is 1.96 standard errors, and 0.015 half of that: an oracle stays within 67.3 % of the time.
    assert row["oracle"] == pytest.approx(3 * 0.673, abs=0.06)
    assert table["oracle"].isna().sum() == 6
    assert table.loc["90 % coverage within 4 points in each tercile", ["kept", "beyond_noise"]].tolist() == [2, 0]
    assert table.loc["90 % interval score at most the best rival's", ["kept", "beyond_noise"]].tolist() == [2, 1]
    assert table.loc["90 % interval score at most 2 % over it", "kept"] == 3
    assert table.loc["R² against no change at least -0.001", "kept"] == 2
    assert table.loc["ECE within what perfect probabilities may come to", "kept"] == 2


def test_a_file_without_its_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises((mlkit.errors.ConfigError, mlkit.errors.BarsError)):
        study_file(tmp_path / "NULL-17q.parquet", mlkit.Settings())
