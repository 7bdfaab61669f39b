"""Which folder answers for a market, also where one of the pools is damaged."""

import logging
import shutil
from pathlib import Path

import pytest

import mlkit
from mlkit.errors import BundleError
from mlkit.inference.bundle_roots import answering_root, current_bundle
from mlkit.inference.loaded_models import LoadedModels
from mlkit.models.bundle.bundle import ModelBundle, write_bundle
from mlkit.models.bundle.bundle_folders import market_root, pool_root
from mlkit.models.bundle.publishing import publish
from mlkit.models.patterns.cnn import weights_file
from mlkit.operations.retraining.champions import champion_of, roll_back

SPAN = {"start": "2020-01-01T00:00:00+00:00", "bars": 100}


@pytest.fixture
def settings(tmp_path: Path) -> mlkit.Settings:
    return mlkit.Settings(model_storage_path=tmp_path / "models")


def published(settings: mlkit.Settings, name: str, symbols: str, end: str) -> ModelBundle:
    """A pool of some markets whose training ended then; it has no models."""
    span = SPAN | {"end": end}
    member = {"training_span": span, "garch": [0.1, 0.1, 0.8], "data_sha256": "ab" * 32, "metrics": {}}
    fields = {
        "created": "2026-01-01T00:00:00+00:00",
        "symbol": name,
        "timeframe": "1d",
        "feature_names": ["a"],
        "horizons": [1],
        "training_span": span,
        "data_sha256": "ab" * 32,
        "seed": 7,
        "settings": {},
        "metrics": {},
        "pool": dict.fromkeys(symbols, member),
    }
    bundle = write_bundle(pool_root(name, "1d", settings), fields, extra={"note.txt": name.encode()})
    publish(bundle)
    return bundle


@pytest.mark.parametrize("what", ["manifest.json", "CURRENT"])
def test_a_damaged_pool_is_told_once_and_the_others_answer(
    what: str, settings: mlkit.Settings, caplog: pytest.LogCaptureFixture
) -> None:
    old = published(settings, "OLD", "ABC", "2020-06-01T00:00:00+00:00")
    new = published(settings, "NEW", "AB", "2020-07-01T00:00:00+00:00")
    roots = {symbol: answering_root(symbol, "1d", settings) for symbol in "ABCD"}
    assert roots == {"A": new.path.parent, "B": new.path.parent, "C": old.path.parent, "D": None}
    path = new.path / what if what == "manifest.json" else new.path.parent / what
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"seed": 7', b'"seed": 8') if what == "manifest.json" else b"nonsense\n")
    if what == "manifest.json":  # read anew where CURRENT was replaced, as by a copy of the folder
        publish_again(new)
    with caplog.at_level(logging.WARNING, logger="mlkit"):
        for _ in range(3):
            assert [answering_root(symbol, "1d", settings) for symbol in "ABC"] == [old.path.parent] * 3
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"pool {new.path.parent} answers for no market: ") and "\n" not in told
    with pytest.raises(BundleError, match="NEW-1d"):  # D may have been one of its markets
        answering_root("D", "1d", settings)
    assert answering_root("D", "1h", settings) is None  # another timeframe is not concerned
    path.write_bytes(whole)
    assert answering_root("A", "1d", settings) == new.path.parent  # mended, it answers at once


def publish_again(bundle: ModelBundle) -> None:
    """The same ``CURRENT`` as another file."""
    path = bundle.path.parent / "CURRENT"
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


ONE = {
    "created": "2026-01-01T00:00:00+00:00",
    "timeframe": "1d",
    "feature_names": ["a"],
    "horizons": [1],
    "training_span": SPAN | {"end": "2020-06-01T00:00:00+00:00"},
    "data_sha256": "ab" * 32,
    "seed": 7,
    "settings": {},
    "metrics": {},
}


@pytest.mark.parametrize(("symbol", "timeframe"), [("BTCUSDT", "1d"), ("SPY", "1h")])
def test_a_folder_that_was_copied_from_another_market_answers_for_none(
    symbol: str, timeframe: str, settings: mlkit.Settings
) -> None:
    home = market_root("SPY", "1d", settings)
    for seed in (7, 8):
        publish(write_bundle(home, {**ONE, "symbol": "SPY", "seed": seed}, cnn_file=weights_file("continuous")))
    copied = market_root(symbol, timeframe, settings)
    shutil.copytree(home, copied)
    with pytest.raises(BundleError, match=rf"holds a bundle of SPY 1d, not of {symbol} {timeframe}; move it"):
        current_bundle(symbol, timeframe, settings)
    assert champion_of(symbol, timeframe, settings)[0] is None
    before = (copied / "CURRENT").read_bytes()
    with pytest.raises(BundleError, match="holds a bundle of SPY 1d"):
        roll_back(symbol, timeframe, settings)
    assert (copied / "CURRENT").read_bytes() == before
    found = current_bundle("SPY", "1d", settings)
    assert found is not None and found.manifest.seed == 8


def test_weights_that_are_exchanged_after_the_check_are_not_loaded(
    settings: mlkit.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: verify the file, then read it again from its path."""
    home, read = market_root("SPY", "1d", settings), ModelBundle.read
    bundle = write_bundle(home, {**ONE, "symbol": "SPY"}, cnn_file=weights_file("continuous"))

    def exchanged(one: ModelBundle, name: str) -> bytes:
        data = read(one, name)
        (one.path / name).write_bytes(weights_file("classic"))
        return data

    monkeypatch.setattr(ModelBundle, "read", exchanged)
    model, reason = LoadedModels(bundle).cnn("classic")
    assert model is not None and (model.standard, reason) == ("continuous", "")
