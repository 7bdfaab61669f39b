"""Training the pattern CNN: labels by the rules, the same bits again, also after a kill."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from mlkit.errors import BundleError, ConfigError
from mlkit.evaluation.metrics import logistic
from mlkit.features.rules import PATTERNS, STANDARDS, pattern_flags
from mlkit.market.simulate.markets import pattern_factory
from mlkit.models.patterns.cnn import pretrained, save_cnn
from mlkit.models.patterns.windows import LENGTH
from mlkit.operations.patterns import cnn_training as pattern_training
from mlkit.operations.patterns.cnn_training import Profile, epochs_of, ship_patterns, train_patterns
from mlkit.operations.patterns.samples import half_tick, mutate, natural_windows, training_windows, window_labels
from mlkit.operations.patterns.thresholds import best_f1, platt

TINY = Profile(epochs=3, windows=1_024, pool=2, valid=2_000, calibration=2_000, batch=64, ema=0.9)


@pytest.fixture(scope="module")
def raw() -> np.ndarray:
    """500 windows of simulated bars, (500, 20, 5)."""
    bars = pattern_factory(519, seed=11).to_numpy()
    return np.stack([bars[i : i + LENGTH] for i in range(500)])


def test_a_window_alone_is_labelled_as_its_last_bar_in_the_series(raw: np.ndarray) -> None:
    bars = pattern_factory(519, seed=11).to_numpy()
    o, h, low, c = np.ascontiguousarray(bars[:, :4].T)
    whole = np.concatenate([pattern_flags(o, h, low, c, s)[LENGTH - 1 :] != 0 for s in STANDARDS], axis=1)
    alone = window_labels(raw)
    assert alone.shape == (500, 30)
    assert (alone != whole).mean() < 1e-3  # a tie with a mean may fall either way by rounding
    assert whole[:, :15].any(axis=0).sum() >= 10


def test_near_misses_are_valid_bars_with_other_labels(raw: np.ndarray) -> None:
    near = mutate(raw, np.random.default_rng(5))
    o, h, low, c = (near[:, :, i] for i in range(4))
    assert np.isfinite(near).all()
    assert (h >= np.maximum(o, c)).all() and (low <= np.minimum(o, c)).all()
    changed = (window_labels(near) != window_labels(raw)).any(axis=1)
    assert 0.2 < changed.mean() < 0.9


def test_training_windows_hold_every_pattern_often() -> None:
    x, y = training_windows((3, 0), 6_000)
    assert x.shape == (6_000, LENGTH, 5) and x.dtype == np.float32 and np.isfinite(x).all()
    assert y.mean(axis=0).min() > 0.005
    again = training_windows((3, 0), 6_000)
    assert again[0].tobytes() == x.tobytes() and (again[1] == y).all()
    assert training_windows((3, 1), 6_000)[0].tobytes() != x.tobytes()
    _, natural = natural_windows((3, 0), 6_000)
    assert natural[:, :15].mean() < y[:, :15].mean()


def test_best_f1_is_the_best_of_all_thresholds() -> None:
    rng = np.random.default_rng(1)
    p = np.round(rng.random(300), 2)  # with ties
    y = rng.random(300) < p**2
    score, threshold = best_f1(p, y)
    assert score == pytest.approx(f1_score(y, p >= threshold))
    assert score == pytest.approx(max(f1_score(y, p >= cut) for cut in np.unique(p)))
    none, half = best_f1(p, np.zeros(300, dtype=bool))
    assert np.isnan(none) and half == 0.5


def test_platt_is_a_logistic_regression() -> None:
    rng = np.random.default_rng(2)
    z = rng.normal(scale=3.0, size=5_000)
    y = rng.random(5_000) < logistic(0.6 * z - 1.0)
    oracle = LogisticRegression(C=np.inf, tol=1e-8).fit(z[:, None], y)
    assert platt(z, y) == pytest.approx((oracle.coef_[0, 0], oracle.intercept_[0]), abs=0.01)
    assert platt(z, np.zeros(5_000, dtype=bool))[1] < -3.0  # no positives: finite, and unlikely


def train(path: Path | None = None, **kwargs: object) -> tuple[bytes, pd.DataFrame]:
    """Bytes of the trained weight file, and the history."""
    model, history = train_patterns(seed=3, profile=TINY, checkpoint=path, **kwargs)  # type: ignore[arg-type]
    out = (path.parent if path else Path.cwd()) / "weights.safetensors"
    save_cnn(out, model)
    return out.read_bytes(), history


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, pd.DataFrame]:
    """Of a training that nothing interrupts."""
    return train(tmp_path_factory.mktemp("straight") / "run.safetensors")


def test_training_learns_and_leaves_the_caller_alone(straight: tuple[bytes, pd.DataFrame], tmp_path: Path) -> None:
    weights, history = straight
    assert list(history.columns) == ["epoch", "train_loss", "valid_loss", "valid_macro_f1"]
    assert history["epoch"].tolist() == [0, 1, 2]
    assert history["train_loss"].iloc[-1] < 0.8 * history["train_loss"].iloc[0]
    torch.manual_seed(99)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert train(tmp_path / "again.safetensors")[0] == weights  # whatever the caller's threads and draws
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()


KILLED = """
import os, signal, sys
from pathlib import Path
from mlkit.operations.patterns.cnn_training import Profile, train_patterns
def die(row):
    if row["epoch"] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
train_patterns(seed=3, profile=Profile(**eval(sys.argv[2])), checkpoint=Path(sys.argv[1]), progress=die)
"""


def test_a_killed_training_resumes_with_the_same_bits(straight: tuple[bytes, pd.DataFrame], tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), str(asdict(TINY))], check=False)
    assert killed.returncode == -signal.SIGKILL and path.is_file()
    seen: list[float] = []
    resumed, history = train(path, progress=lambda row: seen.append(row["epoch"]))
    assert seen == [2.0]
    assert resumed == straight[0]
    pd.testing.assert_frame_equal(history, straight[1])

    with pytest.raises(ConfigError, match="checkpoint of another run"):
        train_patterns(seed=4, profile=TINY, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match="damaged checkpoint"):
        train_patterns(seed=3, profile=TINY, checkpoint=path)


def test_training_stops_early_at_the_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.7, 0.6, 0.6, 0.9, 0.9])
    monkeypatch.setattr(pattern_training, "_validate", lambda *_: (0.1, next(scores)))
    short = replace(TINY, epochs=6, windows=256, patience=2)
    assert train_patterns(seed=3, profile=short)[1]["valid_macro_f1"].tolist() == [0.5, 0.7, 0.6, 0.6]


def test_shipping_writes_weights_that_load(tmp_path: Path) -> None:
    paths = ship_patterns(tmp_path, seed=1, profile="tiny")
    assert [path.stem for path in paths] == list(STANDARDS)
    for standard in STANDARDS:
        model = pretrained(standard, tmp_path)
        assert model.standard == standard and model.thresholds.shape == (len(PATTERNS),)
        assert ((model.thresholds > 0.0) & (model.thresholds < 1.0)).all()
        assert model.meta.command == "mlkit train --only patterns --profile tiny --seed 1"
    manifest = json.loads((tmp_path / "classic.json").read_text())
    assert manifest["epochs"] == epochs_of("tiny") == 2


def test_half_a_tick_moves_prices_and_keeps_bars_valid(raw: np.ndarray) -> None:
    moved = half_tick(raw, 0.01, np.random.default_rng(4))
    assert (moved[..., 4] == raw[..., 4]).all() and not (moved[..., :4] == raw[..., :4]).any()
    assert np.abs(moved - raw).max() < 0.0151  # a high may take over from an open above it
    assert (moved[..., 1] >= moved[..., :4].max(axis=-1)).all() and (moved[..., 2] <= moved[..., :4].min(axis=-1)).all()


def test_jittered_windows_keep_the_labels_of_the_windows_they_were() -> None:
    still, still_labels = training_windows((3, 0), 2_000, natural=0.5, rare=0.5)
    moved, labels = training_windows((3, 0), 2_000, natural=0.5, rare=0.5, jitter=True)
    assert (labels.sum(axis=0) == still_labels.sum(axis=0)).all()  # the same windows, in another order
    assert ((still[:, 1:, 0] == still[:, :-1, 3]).all(axis=1)).mean() > 0.3  # no gaps in a market that never closes
    assert not (moved[:, 1:, 0] == moved[:, :-1, 3]).all(axis=1).any()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="'modern' is unknown"):
        train_patterns(standard="modern")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="profile: 'huge' is unknown"):
        train_patterns(profile="huge")
