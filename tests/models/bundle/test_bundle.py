"""A bundle comes back bit for bit, and whatever is not whole is refused before a library reads it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlkit.errors import BundleError, ConfigError, NotTrainedError
from mlkit.models.bundle import bundle as b
from mlkit.models.bundle import publishing
from mlkit.models.bundle.manifest import render, signed
from mlkit.models.ensemble.price_predictor import PricePredictor
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.models.ensemble.split import TrainingArrays

N, F, HORIZONS = 700, 5, (1, 3)
FIELDS: dict[str, Any] = {
    "created": "2026-01-02T03:04:05+00:00",
    "symbol": "BTCUSDT",
    "timeframe": "1m",
    "feature_names": [f"x{i}" for i in range(F)],
    "horizons": HORIZONS,
    "training_span": {"start": "2026-01-01T00:00:00+00:00", "end": "2026-01-01T11:39:00+00:00", "bars": N},
    "data_sha256": "0" * 64,
    "seed": 7,
    "settings": {"profile": "smoke", "cost_bps": np.float64(1.0)},
    "metrics": {"1": {"r2": float("nan"), "hit_rate": np.float32(0.5)}},
}


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, F)).astype(np.float32)


@pytest.fixture(scope="module")
def price(X: np.ndarray) -> PricePredictor:
    rng = np.random.default_rng(1)
    walk = np.cumsum(0.3 * X[:, 0] + rng.normal(size=N))
    Y, end = np.full((N, 2), np.nan), np.full((N, 2), -1)
    for j, h in enumerate(HORIZONS):
        Y[:-h, j], end[:-h, j] = 0.001 * (walk[h:] - walk[:-h]), np.arange(h, N)
    settings = EnsembleSettings.smoke(n_threads=1, n_estimators=10, forest_trees=4, min_leaf=20)
    return PricePredictor.fit(TrainingArrays(X, Y, end, np.full((N, len(HORIZONS)), 0.001), HORIZONS), settings)


@pytest.fixture(scope="module")
def template(price: PricePredictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    return b.write_bundle(root, FIELDS, price=price, cnn_file=b"weights", extra={"drift.json": b"{}"}).path


@pytest.fixture
def stored(template: Path, tmp_path: Path) -> Path:
    """A fresh copy that a test may damage."""
    return Path(shutil.copytree(template, tmp_path / template.name))


@pytest.fixture
def no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        pytest.fail("a library was given bytes that were not verified")

    monkeypatch.setattr(PricePredictor, "from_bytes", fail)


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None], *, sign: bool = True) -> None:
    """Change the manifest as an attacker would: with identifier and digest made anew."""
    described = json.loads((folder / "manifest.json").read_text())
    change(described)
    (folder / "manifest.json").write_bytes(render(signed(described) if sign else described))


def test_round_trip_predicts_the_same_bits(price: PricePredictor, X: np.ndarray, stored: Path) -> None:
    bundle = b.ModelBundle.open(stored)
    assert bundle.price is not None
    scale = np.full((N, len(HORIZONS)), 0.001)
    ours, theirs = price.predict(X, scale), bundle.price.predict(X, scale)
    assert np.array_equal(ours.log_return, theirs.log_return)
    assert np.array_equal(ours.p_up, theirs.p_up)
    assert np.array_equal(ours.hi90, theirs.hi90)
    assert bundle.price is bundle.price
    assert bundle.cnn_file == b"weights"
    assert bundle.read("drift.json") == b"{}"


def test_the_manifest_tells_the_whole_story(stored: Path) -> None:
    manifest = b.ModelBundle.open(stored).manifest
    assert manifest.feature_names == ("x0", "x1", "x2", "x3", "x4")
    assert manifest.training_span.bars == N
    assert manifest.metrics == {"1": {"r2": None, "hit_rate": 0.5}}
    assert {"numpy", "lightgbm"} <= manifest.library_versions.keys()
    names = {"xgb_1.ubj", "xgb_3.ubj", "lgb_1.txt", "lgb_3.txt"}
    names |= {f"{prefix}_{h}.npz" for prefix in ("xgb", "lgb", "rf") for h in (1, 3)}
    assert manifest.files.keys() == names | {"calibration.json", "cnn.safetensors", "drift.json"}
    assert not any(path.suffix in {".pkl", ".joblib"} for path in stored.iterdir())


def test_same_content_same_id_whatever_the_time(price: PricePredictor, tmp_path: Path) -> None:
    first = b.write_bundle(tmp_path, FIELDS, price=price)
    again = b.ModelBundle.write(tmp_path, FIELDS | {"created": "2030-01-01T00:00:00+00:00"}, price=price)
    assert again.path == first.path
    assert again.manifest.created == FIELDS["created"]
    assert b.write_bundle(tmp_path, FIELDS | {"seed": 8}, price=price).id != first.id
    assert b.write_bundle(tmp_path, FIELDS, price=price, extra={"a.json": b"1"}).id != first.id
    assert first.path.name == first.id and len(first.id) == 16
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]  # no drafts left


def test_a_damaged_bundle_is_not_reused_but_written_anew(price: PricePredictor, tmp_path: Path) -> None:
    first = b.write_bundle(tmp_path, FIELDS, price=price)
    (first.path / "lgb_1.txt").write_bytes(b"tree")
    with pytest.raises(BundleError, match="delete it and train again"):
        b.ModelBundle.open(first.path)
    assert b.write_bundle(tmp_path, FIELDS, price=price).id == first.id
    b.ModelBundle.open(first.path)
    assert [path.name for path in tmp_path.iterdir()] == [first.id]


@pytest.mark.usefixtures("no_loading")
@pytest.mark.parametrize("name", ["xgb_1.ubj", "lgb_3.txt", "rf_1.npz", "calibration.json", "cnn.safetensors"])
class TestDamagedFilesAreRefusedBeforeLoading:
    def refused(self, folder: Path, message: str) -> None:
        with pytest.raises(BundleError, match=message) as caught:
            b.ModelBundle.open(folder)
        assert "\n" not in str(caught.value)

    def test_truncated(self, stored: Path, name: str) -> None:
        (stored / name).write_bytes((stored / name).read_bytes()[:-3])
        self.refused(stored, rf"{name} has \d+ bytes, \d+ were written")

    def test_one_bit_flipped(self, stored: Path, name: str) -> None:
        data = bytearray((stored / name).read_bytes())
        data[len(data) // 2] ^= 1
        (stored / name).write_bytes(data)
        self.refused(stored, f"{name} is not what was written")

    def test_missing(self, stored: Path, name: str) -> None:
        (stored / name).unlink()
        self.refused(stored, f"{name} is missing")

    def test_a_link_in_its_place(self, stored: Path, name: str, tmp_path: Path) -> None:
        (stored / name).rename(tmp_path / "elsewhere")
        (stored / name).symlink_to(tmp_path / "elsewhere")
        self.refused(stored, f"{name} cannot be read")

    def test_a_folder_in_its_place(self, stored: Path, name: str) -> None:
        (stored / name).unlink()
        (stored / name).mkdir()
        self.refused(stored, f"{name} cannot be read .not a regular file")


@pytest.mark.usefixtures("no_loading")
def test_swapped_files(stored: Path) -> None:
    one, three = stored / "xgb_1.ubj", stored / "xgb_3.ubj"
    held = one.read_bytes()
    one.write_bytes(three.read_bytes())
    three.write_bytes(held)
    with pytest.raises(BundleError, match=r"xgb_1\.ubj"):
        b.ModelBundle.open(stored)


@pytest.mark.usefixtures("no_loading")
def test_an_extra_file(stored: Path) -> None:
    (stored / "model.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(BundleError, match=r"model\.pkl does not belong there"):
        b.ModelBundle.open(stored)


@pytest.mark.usefixtures("no_loading")
@pytest.mark.parametrize("name", ["../evil.txt", "/etc/passwd", "a/b.txt", "..", "manifest.json", "x.txt\n", ".hidden"])
def test_names_that_leave_the_folder(stored: Path, name: str) -> None:
    edit_manifest(stored, lambda m: m["files"].update({name: {"sha256": "0" * 64, "size": 1}}))
    with pytest.raises(BundleError, match="is not a plain file name"):
        b.ModelBundle.open(stored)


@pytest.mark.usefixtures("no_loading")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=2), "schema 2, this mlkit reads 4 and 5; train again or install the mlkit"),
        (lambda m: m.update(horizons=[3, 1]), "horizons must increase"),
        (lambda m: m.update(feature_names=["a", "a"]), "feature names repeat"),
        (lambda m: m.update(data_sha256="short"), "data_sha256"),
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m.pop("seed"), "seed"),
        (lambda m: m.update(files={}), "without model files"),
        (lambda m: m.pop("schema_version"), "is not a manifest"),
    ],
)
def test_manifests_that_are_none(stored: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    edit_manifest(stored, change)
    with pytest.raises(BundleError, match=message) as caught:
        b.ModelBundle.open(stored)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '"x"', "[" * 100_000])
def test_manifests_that_are_no_json_object(stored: Path, text: str) -> None:
    (stored / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=r"manifest\.json is not a manifest"):
        b.ModelBundle.open(stored)


def test_an_edited_manifest_shows(stored: Path) -> None:
    """The planted fault: swapping two feature names would silently scramble every prediction."""
    edit_manifest(stored, lambda m: m["feature_names"].reverse(), sign=False)
    with pytest.raises(BundleError, match="was changed"):
        b.ModelBundle.open(stored)


def test_what_the_id_leaves_out_and_the_spelling_are_covered_too(stored: Path) -> None:
    path, text = stored / "manifest.json", (stored / "manifest.json").read_text()
    for other in (text.replace("2026-01-02T03", "2026-01-02T04"), text.replace("\n ", "\n  ", 1), text + "\n"):
        assert other != text
        path.write_text(other)
        with pytest.raises(BundleError, match="was changed"):
            b.ModelBundle.open(stored)
    path.write_text(text)
    assert b.ModelBundle.open(stored).id == stored.name


def test_a_pickle_inside_a_forest_is_not_loaded(stored: Path) -> None:
    """Even with digests made to match: the arrays are read with allow_pickle=False."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (pytest.fail, ("the pickle was loaded",))

    np.savez(stored / "rf_1.npz", feature=np.array([Bomb()], dtype=object))
    data = (stored / "rf_1.npz").read_bytes()
    record = {"sha256": b.hashlib.sha256(data).hexdigest(), "size": len(data)}
    edit_manifest(stored, lambda m: m["files"].update({"rf_1.npz": record}))
    with pytest.raises(BundleError, match=r"rf_1\.npz: expected the arrays"):
        _ = b.ModelBundle.open(stored).price


def test_models_must_fit_the_manifest(stored: Path) -> None:
    edit_manifest(stored, lambda m: m["feature_names"].append("one_more"))
    with pytest.raises(BundleError, match="disagree on horizons or features"):
        _ = b.ModelBundle.open(stored).price


def test_a_file_that_changes_after_opening_is_not_loaded(stored: Path) -> None:
    bundle = b.ModelBundle.open(stored)
    (stored / "rf_3.npz").write_bytes(bytes((stored / "rf_3.npz").stat().st_size))
    with pytest.raises(BundleError, match=r"rf_3\.npz is not what was written"):
        _ = bundle.price


def test_publish_replaces_current_in_one_step(price: PricePredictor, tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(NotTrainedError, match="no published model"):
        b.ModelBundle.open(tmp_path)
    first = b.write_bundle(tmp_path, FIELDS, price=price)
    second = b.write_bundle(tmp_path, FIELDS | {"seed": 8}, price=price)
    with pytest.raises(NotTrainedError):
        b.ModelBundle.open(tmp_path)  # written is not published
    publishing.publish(first)
    assert b.ModelBundle.open(tmp_path).id == first.id
    with monkeypatch.context() as patch:  # a crash between writing and renaming
        patch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("power cut")))
        with pytest.raises(OSError, match="power cut"):
            publishing.publish(second)
    assert b.ModelBundle.open(tmp_path).id == first.id
    publishing.publish(second)
    assert b.ModelBundle.open(tmp_path).id == second.id
    assert (tmp_path / "CURRENT").read_text() == f"{second.id}\n{first.id}\n"


def test_a_crash_while_writing_leaves_no_bundle(price: PricePredictor, tmp_path: Path, monkeypatch: Any) -> None:
    written: list[Path] = []

    def fail_late(path: Path, data: bytes) -> None:
        if len(written) == 3:
            raise OSError("disk full")
        written.append(path)
        path.write_bytes(data)

    monkeypatch.setattr(b, "write_atomic", fail_late)
    with pytest.raises(OSError, match="disk full"):
        b.write_bundle(tmp_path, FIELDS, price=price)
    assert len(written) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "../x", "0123456789abcdef0", "ABCDEF0123456789", "é", "0123456789abcdef\n\n"])
def test_a_current_that_is_no_id(tmp_path: Path, text: str) -> None:
    (tmp_path / "CURRENT").write_text(text + "\n")
    with pytest.raises(BundleError, match="is not a bundle id"):
        b.ModelBundle.open(tmp_path)


def test_a_current_that_names_nothing_or_another(stored: Path) -> None:
    root = stored.parent
    (root / "CURRENT").write_text("0123456789abcdef\n")
    with pytest.raises(BundleError, match="names 0123456789abcdef, which is not there"):
        b.ModelBundle.open(root)
    stored.rename(root / "0123456789abcdef")
    with pytest.raises(BundleError, match=f"holds bundle {stored.name}"):
        b.ModelBundle.open(root)
    renamed = b.ModelBundle.open(root / "0123456789abcdef")  # a copy under another name is whole
    with pytest.raises(BundleError, match="do not rename it"):
        publishing.publish(renamed)


def test_a_bundle_without_prices(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"cnn")
    bundle = b.write_bundle(tmp_path / "models", FIELDS, cnn_file=tmp_path / "weights")
    assert bundle.price is None
    assert bundle.cnn_file == (tmp_path / "weights").read_bytes()
    assert b.write_bundle(tmp_path / "models", FIELDS, extra={"note.txt": b"x"}).cnn_file is None
    with pytest.raises(BundleError, match=r"holds no rf_1\.npz"):
        bundle.read("rf_1.npz")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({key: value for key, value in FIELDS.items() if key != "symbol"}, "symbol: Field required"),
        (FIELDS | {"colour": "red"}, "colour"),
        (FIELDS | {"horizons": [0]}, r"horizons\.0"),
    ],
)
def test_fields_are_checked_before_anything_is_written(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        b.write_bundle(tmp_path, fields, cnn_file=b"cnn")
    with pytest.raises(ConfigError, match="without model files"):
        b.write_bundle(tmp_path, FIELDS)
    assert list(tmp_path.iterdir()) == []


def test_the_table_prints_and_escapes(stored: Path) -> None:
    edit_manifest(stored, lambda m: m.update(symbol="<script>"))
    html = b.ModelBundle.open(stored)._repr_html_()
    assert "&lt;script&gt; 1m" in html
    assert "700 bars" in html


def pool_fields() -> dict[str, Any]:
    """Fields of a bundle of two markets."""
    member = {
        "training_span": FIELDS["training_span"],
        "garch": (1e-6, 0.05, 0.9),
        "data_sha256": "1" * 64,
        "metrics": {"1": {"r2": float("nan")}},
    }
    return FIELDS | {"symbol": "BOTH", "pool": {"ETHUSDT": member, "BTCUSDT": member | {"garch": (2e-6, 0.1, 0.8)}}}


def test_a_bundle_of_several_markets_has_a_schema_of_its_own(price: PricePredictor, tmp_path: Path) -> None:
    bundle = b.write_bundle(tmp_path, pool_fields(), price=price)
    manifest = b.ModelBundle.open(bundle.path).manifest
    assert (manifest.schema_version, manifest.symbols) == (5, ("BTCUSDT", "ETHUSDT"))
    assert manifest.garch_of("BTCUSDT") == (2e-6, 0.1, 0.8) and manifest.garch_of("ADAUSDT") is None
    alone = b.write_bundle(tmp_path, FIELDS | {"garch": (1e-6, 0.05, 0.9)}, price=price).manifest
    assert (alone.schema_version, alone.symbols) == (4, ("BTCUSDT",))
    assert alone.garch_of("ADAUSDT") == alone.garch


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=4), "several markets is of schema 5"),
        (lambda m: m["pool"].pop("ETHUSDT"), "a pool has several markets"),
        (lambda m: m.update(pool={}), "several markets is of schema 5"),
        (lambda m: m.update(garch=[1e-6, 0.05, 0.9]), "each with its own garch"),
        (lambda m: m["pool"]["ETHUSDT"].pop("garch"), "pool.ETHUSDT.garch: Field required"),
        (lambda m: m["pool"]["ETHUSDT"].update(weight=1), "pool.ETHUSDT.weight: Extra inputs"),
    ],
)
def test_a_manifest_of_a_pool_is_strict(
    price: PricePredictor, tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    path = b.write_bundle(tmp_path, pool_fields(), price=price).path / "manifest.json"
    described = json.loads(path.read_text())
    change(described)
    path.write_bytes(render(signed(described)))
    with pytest.raises(BundleError, match=message):
        b.ModelBundle.open(path.parent)
