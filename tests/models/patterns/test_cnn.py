"""The pattern CNN: window scaling, shape, causality, files that must be refused, quality on real bars."""

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

import mlkit
from mlkit.errors import BundleError, ConfigError
from mlkit.evaluation.metrics import logistic
from mlkit.features.rules import PATTERNS, STANDARDS, Standard, pattern_flags
from mlkit.models.patterns import cnn as pattern_cnn
from mlkit.models.patterns.cnn import PatternMeta, PatternModel, load_cnn, pretrained, save_cnn
from mlkit.models.patterns.forward import Forward
from mlkit.models.patterns.network import (
    BATCH,
    BarConv,
    CandleStem,
    PatternCNN,
    folded,
    net_logits,
    net_of,
    weights_of,
)
from mlkit.models.patterns.windows import LENGTH, windows
from mlkit.operations.patterns.samples import half_tick

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def ohlcv() -> Array:
    """1,200 simulated bars on ticks."""
    rng = np.random.default_rng(3)
    close = 100.0 + 0.05 * np.round(np.cumsum(rng.normal(size=1200)) * 4)
    start = np.concatenate(([100.0], close[:-1]))
    high = np.maximum(start, close) + 0.05 * rng.integers(0, 4, 1200)
    low = np.minimum(start, close) - 0.05 * rng.integers(0, 4, 1200)
    return np.stack([start, high, low, close, rng.lognormal(size=1200)], axis=1)


@pytest.fixture(scope="module")
def model() -> PatternModel:
    """A network with random weights and batch statistics."""
    torch.manual_seed(5)
    net = PatternCNN().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            for values, low in ((module.weight, 0.5), (module.bias, -1.0), (module.running_mean, -1.0)):
                torch.nn.init.uniform_(values, low, low + 2.0)  # type: ignore[arg-type]
            torch.nn.init.uniform_(module.running_var, 0.2, 3.0)  # type: ignore[arg-type]
    return PatternModel(weights_of(net), PatternMeta(standard="classic"))


def by_hand(window: Array) -> Array:
    """One window as the docstring says, price by price."""
    scale = np.mean([high - low for high, low in window[:, 1:3]])
    mean_volume = np.mean(window[:, 4])
    rows = [[*((price - window[-1, 3]) / scale for price in bar[:4]), np.log(1 + bar[4] / mean_volume)]
            for bar in window]  # fmt: skip
    return np.array(rows)


def test_windows_are_what_the_docstring_says(ohlcv: Array) -> None:
    x = windows(ohlcv)
    assert x.shape == (1200 - 19, 20, 5) and x.dtype == np.float32
    for row in (0, 500, 1180):
        np.testing.assert_allclose(x[row], by_hand(ohlcv[row : row + 20]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("price", "volume"), [(-9, 4), (3, -12), (20, 20)])
def test_windows_do_not_see_price_or_volume_scale(ohlcv: Array, price: int, volume: int) -> None:
    scaled = ohlcv * np.array([2.0**price] * 4 + [2.0**volume])
    assert windows(scaled).tobytes() == windows(ohlcv).tobytes()


def test_equal_prices_stay_equal_and_a_tick_shows() -> None:
    """A tick of 0.01 beside a range of 1,000: a thousandth of a per cent decides a comparison."""
    bars = np.tile([50_000.0, 50_600.0, 49_600.0, 50_100.0, 1.0], (20, 1))
    bars[1::2, 0] = 50_100.01
    x = windows(bars)[0]
    assert (x[0::2, 0] < x[0::2, 3]).all() and (x[1::2, 0] > x[1::2, 3]).all()
    bars[:, 0] = 50_100.0
    x = windows(bars)[0]
    assert (x[:, 0] == x[:, 3]).all()


def test_zero_range_zero_volume_and_holes_are_defined(ohlcv: Array, model: PatternModel) -> None:
    flat = np.full((25, 5), 7.0)
    flat[:, 4] = 0.0
    assert (windows(flat) == 0.0).all()
    assert np.isfinite(model.probabilities(flat)[LENGTH - 1 :]).all()

    silent = ohlcv.copy()
    silent[:, 4] = 0.0
    assert (windows(silent)[:, :, 4] == 0.0).all()
    assert np.isfinite(model.probabilities(silent)[LENGTH - 1 :]).all()

    waking = flat.copy()  # one bar that moves after a still market
    waking[-1, :4] = [7.0, 7.5, 6.5, 7.2]
    assert np.isfinite(model.probabilities(waking)[LENGTH - 1 :]).all()

    for column, hole in ((4, np.nan), (4, np.inf), (0, np.nan), (1, np.inf), (2, -np.inf), (3, np.nan)):
        broken = ohlcv[:100].copy()
        broken[50, column] = hole
        expected = np.zeros(100, dtype=bool)
        expected[: LENGTH - 1] = expected[50 : 50 + LENGTH] = True
        got = np.isnan(model.probabilities(broken))
        assert (got == expected[:, None]).all()


def test_short_and_misshapen_input(ohlcv: Array, model: PatternModel) -> None:
    assert windows(ohlcv[:19]).shape == (0, 20, 5)
    assert model.probabilities(ohlcv[:0]).shape == (0, 15)
    assert np.isnan(model.probabilities(ohlcv[:19])).all()
    assert np.isfinite(model.probabilities(ohlcv[:20])[-1]).all()
    with pytest.raises(ConfigError, match=r"want \(n_bars, 5\).*got \(30, 4\)"):
        model.probabilities(ohlcv[:30, :4])
    for shape in ((3, LENGTH - 1, 5), (3, LENGTH, 4), (LENGTH, 5), (3, LENGTH + 1, 5)):
        with pytest.raises(ConfigError, match=r"want \(n, 20, 5\), got"):
            model.window_probabilities(np.zeros(shape, dtype=np.float32))
    smaller = model.tensors | {"blocks.1.3.weight": np.zeros((64, 63), dtype=np.float32)}
    with pytest.raises(ConfigError, match=r"blocks.1.3.weight: want \(64, 64\), got \(64, 63\)"):
        Forward(smaller)


def test_network_has_the_specified_shape() -> None:
    net = PatternCNN().eval()
    convolutions = [[m for m in block.modules() if isinstance(m, BarConv)] for block in net.blocks]
    assert [block[-1].out_features for block in convolutions] == [32, 64, 128]
    assert {block[0].kernel for block in convolutions} == {3}
    p = net(torch.from_numpy(some_windows()))
    assert p.shape == (64, 15)
    assert ((p >= 0.0) & (p <= 1.0)).all()
    assert not list(net.stem.parameters())
    assert sum(4 * t.numel() for t in net.state_dict().values()) < 2_000_000


def some_windows() -> NDArray[np.float32]:
    """64 windows of anything, (64, 20, 5)."""
    x = 3.0 * np.random.default_rng(1).normal(size=(64, LENGTH, 5))
    x[:, :, 1], x[:, :, 2] = x[:, :, :4].max(axis=2), x[:, :, :4].min(axis=2)
    return x.astype(np.float32)


def test_a_convolution_over_bars_is_that_of_torch() -> None:
    torch.manual_seed(2)
    for n_bars in (5, 3):
        ours, oracle = BarConv(7, 11, 3, bias=True), torch.nn.Conv1d(7, 11, 3)
        with torch.no_grad():
            oracle.weight.copy_(ours.weight.view(11, 3, 7).transpose(1, 2))
            oracle.bias.copy_(ours.bias)  # type: ignore[union-attr]
        x = torch.randn(4, n_bars, 7)
        torch.testing.assert_close(ours(x), oracle(x.transpose(1, 2)).transpose(1, 2))


def test_folding_the_norms_changes_nothing_but_rounding(model: PatternModel) -> None:
    x, net = some_windows(), net_of(model.tensors)
    plain, fused = net_logits(net, x), net_logits(folded(net), x)
    assert not any(isinstance(m, torch.nn.BatchNorm1d) for m in folded(net).modules())
    assert plain.std() > 0.1
    np.testing.assert_allclose(fused, plain, rtol=0, atol=1e-4 * plain.std())


@pytest.mark.parametrize("standard", STANDARDS)
def test_answers_are_those_of_torch(
    sp500: pd.DataFrame, real_bars: Callable[[str], pd.DataFrame], standard: Standard
) -> None:
    """Measured on 142,000 windows of 37 files: 3.5e-5 at most, 5e-6 at the 99th percentile, which is rounding."""
    model = pretrained(standard)
    net = folded(net_of(model.tensors))
    slope, intercept = np.array(model.meta.slope), np.array(model.meta.intercept)
    for bars in (sp500, *(real_bars(name) for name in ("BTCUSDT_BYBIT-1m", "EURUSD-1h"))):
        x = windows(bars.to_numpy(dtype=np.float64)[:5000])
        oracle = logistic(slope * net_logits(net, x) + intercept)
        assert oracle.std() > 0.05
        apart = np.abs(model.window_probabilities(x) - oracle).max(axis=1)
        assert apart.max() < 1e-4 and np.quantile(apart, 0.99) < 1e-5


@pytest.mark.parametrize("outputs", [1, 15, 16, 30])
def test_any_network_answers_as_torch_does(outputs: int) -> None:
    torch.manual_seed(outputs)
    net, x = PatternCNN(outputs).eval(), some_windows()
    z = Forward(weights_of(net)).logits(x)
    assert z.shape == (64, outputs) and z.dtype == np.float64
    np.testing.assert_allclose(z, net_logits(net, x), rtol=0, atol=1e-5)


def test_a_window_has_one_answer_whatever_its_company(ohlcv: Array, model: PatternModel) -> None:
    x = windows(ohlcv)
    whole = model.window_probabilities(x)
    for n in (1, 2, 3, 17, 64, 1000):
        for first in (0, 7, len(x) - n):
            assert model.window_probabilities(x[first : first + n]).tobytes() == whole[first : first + n].tobytes()
    assert model.window_probabilities(x[::-2]).tobytes() == whole[::-2].tobytes()  # of any layout in memory
    assert model.window_probabilities(np.asfortranarray(x)).tobytes() == whole.tobytes()
    beside = x.copy()
    beside[1::2] = np.nan
    assert model.window_probabilities(beside)[::2].tobytes() == whole[::2].tobytes()
    with ThreadPoolExecutor(4) as pool:
        assert {p.tobytes() for p in pool.map(model.window_probabilities, [x] * 8)} == {whole.tobytes()}


def test_answering_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import mlkit; from mlkit.models.patterns.cnn import pretrained\n"
        "print(pretrained().probabilities(mlkit.load_bars('SP500', '1d').to_numpy()[:30]).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "(30, 15)\n", done.stderr


def test_stem_sees_the_last_bars_and_the_means_before_them() -> None:
    """A doji after nine bars of range 2 and body 1: its channels by hand."""
    x = np.tile(np.array([0.0, 1.5, -0.5, 1.0, 0.0], dtype=np.float32), (1, LENGTH, 1))
    x[0, -1, :4] = [1.0, 1.25, 0.5, 1.0]
    out = CandleStem()(torch.from_numpy(x))
    assert out.shape == (1, 7, CandleStem.n_channels)
    lengths = np.log1p(np.array([0.25, 0.5, 0.75, 0.0, 1.0, 2.0, 1.0, 2.0]) / 1e-3) / 2
    np.testing.assert_allclose(out[0, -1, 22:30], lengths, rtol=1e-6)  # shadows, range, body, means of 5 and 10
    ratios = 2 * np.array([lengths[0] - lengths[7], lengths[3] - lengths[6]])  # head, body against their means
    np.testing.assert_allclose(out[0, -1, [30, 36]], ratios, rtol=1e-5)
    np.testing.assert_allclose(out[0, -1, 37 + 22], 0.0, atol=1e-6)  # body beside the mean range: nothing
    early = x.copy()
    early[0, :3] += 5.0  # bars that no mean of the last seven reaches
    assert torch.equal(CandleStem()(torch.from_numpy(early)), out)


def test_future_bars_change_no_bit(ohlcv: Array, model: PatternModel) -> None:
    whole = model.probabilities(ohlcv)
    for n in (20, 333, BATCH + 19, BATCH + 20, 1100):
        assert model.probabilities(ohlcv[:n]).tobytes() == whole[:n].tobytes()
    tail = model.probabilities(ohlcv[-20:])[-1]
    assert tail.tobytes() == whole[-1].tobytes()


def test_file_round_trip(tmp_path: Path, ohlcv: Array, model: PatternModel) -> None:
    path = tmp_path / "cnn.safetensors"
    save_cnn(path, model)
    again = load_cnn(path)
    assert again.probabilities(ohlcv).tobytes() == model.probabilities(ohlcv).tobytes()
    assert again.meta.model_copy(update={"weights_sha256": ""}) == model.meta
    for file in (path, pattern_cnn.PRETRAINED / "classic.safetensors"):
        save_cnn(tmp_path / "copy", load_cnn(file))
        assert (tmp_path / "copy").read_bytes() == file.read_bytes()


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, object]], None]) -> None:
    """Save the file again with changed tensors and metadata."""
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    meta, tensors = json.loads(header["__metadata__"]["mlkit"]), load_file(path)
    change(tensors, meta)
    save_file(tensors, path, metadata={"mlkit": json.dumps(meta)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t["read_out.bias"].add_(1e-6), "do not match their digest"),
        (lambda t, m: t.update({"read_out.bias": torch.zeros(14)}), r"want \(15,\), got \(14,\)"),
        (lambda t, m: t.update({"read_out.bias": torch.zeros(15).double()}), "read_out.bias: of float64"),
        (lambda t, m: t.pop("read_out.bias"), r"read_out.bias: want \(15,\), got None"),
        (lambda t, m: t.update({"extra": torch.zeros(1)}), r"extra: want None, got \(1,\)"),
        (lambda t, m: m.update({"sequence_length": 30}), "made for 30 bars, mlkit uses 20"),
        (lambda t, m: m.update({"patterns": [*m["patterns"][1:], "kicker"]}), "pattern 'kicker', for which .* no rule"),
        (lambda t, m: m.update({"patterns": []}), "patterns are empty or repeat"),
        (lambda t, m: m.update({"patterns": ["doji"] * 15}), "patterns are empty or repeat"),
        (lambda t, m: m.update({"thresholds": m["thresholds"][:-1]}), "one number for each of its 15 patterns"),
        (lambda t, m: m.update({"patterns": m["patterns"][1:]}), "one number for each of its 14 patterns"),
        (lambda t, m: m.update({"standard": "modern"}), "metadata: standard"),
        (lambda t, m: m.update({"schema_version": 2}), "metadata: schema_version"),
    ],
)  # fmt: skip
def test_altered_weights_are_refused(
    tmp_path: Path, model: PatternModel, change: Callable[..., None], message: str
) -> None:
    path = tmp_path / "cnn.safetensors"
    save_cnn(path, model)
    rewrite(path, change)
    with pytest.raises(BundleError, match=message) as caught:
        load_cnn(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"not a tensor file at all", b"\x02\0\0\0\0\0\0\0{}"])
def test_foreign_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "cnn.safetensors"
    path.write_bytes(data)
    with pytest.raises(BundleError, match="not a pattern CNN"):
        load_cnn(path)
    with pytest.raises(BundleError, match="cannot be read"):
        load_cnn(tmp_path / "absent")


def test_shipped_weights_are_checked_against_their_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: PatternModel
) -> None:
    for suffix in ("json", "safetensors"):
        source = pattern_cnn.PRETRAINED / f"classic.{suffix}"
        (tmp_path / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(pattern_cnn, "PRETRAINED", tmp_path)
    assert pretrained("classic").standard == "classic"
    save_cnn(tmp_path / "classic.safetensors", model)  # sound, but another model
    with pytest.raises(BundleError, match="not the file its manifest describes"):
        pretrained("classic")
    with pytest.raises(BundleError, match="cannot be read"):
        pretrained("continuous")
    with pytest.raises(ConfigError, match="'modern' is unknown"):
        pretrained("modern")  # type: ignore[arg-type]


@pytest.mark.parametrize("standard", STANDARDS)
def test_shipped_weights_are_small_and_reproducible(standard: Standard) -> None:
    manifest = json.loads((pattern_cnn.PRETRAINED / f"{standard}.json").read_text())
    assert manifest["size"] <= 2_000_000
    assert manifest["command"] == "mlkit train --only patterns --profile full --seed 7"
    assert pretrained(standard).meta.command == manifest["command"]


def test_weights_of_ones_own_folder(tmp_path: Path) -> None:
    for suffix in ("json", "safetensors"):
        source = pattern_cnn.PRETRAINED / f"classic.{suffix}"
        (tmp_path / source.name).write_bytes(source.read_bytes())
    assert pretrained("classic", tmp_path).meta == pretrained("classic").meta
    with pytest.raises(BundleError, match=r"continuous.safetensors: .* run mlkit train --only patterns again"):
        pretrained("continuous", tmp_path)
    (tmp_path / "classic.json").write_text("[]")
    with pytest.raises(BundleError, match="not the file its manifest describes"):
        pretrained("classic", tmp_path)


def macro_f1(standard: Standard, bars: pd.DataFrame) -> float:
    """Mean F1 over patterns with at least 100 hits."""
    model, data = pretrained(standard), bars.to_numpy()
    o, h, low, c = np.ascontiguousarray(data[:, :4].T)
    truth = pattern_flags(o, h, low, c, standard)[LENGTH - 1 :] != 0
    hit = model.probabilities(data)[LENGTH - 1 :] >= model.thresholds
    f1 = 2.0 * (hit & truth).sum(axis=0) / np.maximum(hit.sum(axis=0) + truth.sum(axis=0), 1)
    enough = truth.sum(axis=0) >= 100
    assert enough.sum() >= 7
    return float(f1[enough].mean())


@pytest.mark.parametrize("standard", STANDARDS)
def test_shipped_weights_agree_with_the_rules_on_real_bars(
    sp500: pd.DataFrame, nasdaq: pd.DataFrame, standard: Standard
) -> None:
    """Measured: 0.988 and 0.982 under both standards; no weight or threshold was fitted to real bars."""
    assert macro_f1(standard, sp500) > 0.978
    assert macro_f1(standard, nasdaq) > 0.972


@pytest.mark.parametrize("standard", STANDARDS)
def test_shipped_detections_are_steadier_than_the_rules(sp500: pd.DataFrame, standard: Standard) -> None:
    """Half a tick on every price. Measured: 10 changes per 100 detections, the rules 14."""
    still = sp500.to_numpy()
    moved = half_tick(still, 0.01, np.random.default_rng(7))
    model = pretrained(standard)
    seen = [model.probabilities(bars)[LENGTH - 1 :] >= model.thresholds for bars in (still, moved)]
    rules = [
        pattern_flags(*np.ascontiguousarray(bars[:, :4].T), standard=standard)[LENGTH - 1 :] != 0
        for bars in (still, moved)
    ]
    cnn, rule = ((a != b).sum() / a.sum() for a, b in (seen, rules))
    assert 0.0 < cnn < 0.85 * rule


def test_shipped_weights_hold_all_patterns() -> None:
    assert pretrained("classic").patterns == pretrained("continuous").patterns == PATTERNS


def test_a_model_may_hold_fewer_patterns_than_there_are_rules(tmp_path: Path, sp500: pd.DataFrame) -> None:
    """Its answers carry its own names, in its own order."""
    whole = pretrained("classic")
    kept = [PATTERNS.index(name) for name in ("marubozu", "hammer", "doji")]
    tensors = whole.tensors | {name: whole.tensors[name][kept] for name in ("read_out.weight", "read_out.bias")}
    names = ("patterns", "slope", "intercept", "thresholds")
    meta = {name: tuple(getattr(whole.meta, name)[k] for k in kept) for name in names}
    save_cnn(tmp_path / "three.safetensors", PatternModel(tensors, whole.meta.model_copy(update=meta)))

    three = load_cnn(tmp_path / "three.safetensors")
    bars = sp500.iloc[-300:]
    expected = whole.probabilities(bars.to_numpy())[:, kept]
    np.testing.assert_allclose(three.probabilities(bars.to_numpy()), expected, rtol=0, atol=1e-6)
    table = mlkit.Predictor(cnn=three).pattern_probabilities(bars)
    assert list(table.columns) == ["marubozu", "hammer", "doji"]
    reading = mlkit.Predictor(cnn=three).insight(bars).patterns
    assert list(reading.probabilities) == list(reading.thresholds) == ["marubozu", "hammer", "doji"]
    assert set(reading.rules) == set(PATTERNS)
