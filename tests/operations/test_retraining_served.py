"""A server at work picks up what a retraining publishes and what a rollback brings back, and mixes nothing."""

import json
import runpy
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mlkit
from mlkit.market.simulate.markets import null_market
from mlkit.models.bundle.bundle_folders import market_root
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.retraining.champions import roll_back
from mlkit.operations.retraining.retraining import retrain

SERVING = runpy.run_path(str(Path(__file__).parents[1] / "bench" / "serving.py"))
URL = "/api/ml/price-prediction/CALM?timeframe=1h"
PATIENCE = 60.0  # s until a test gives up


class Asked:
    """Answers of a server that is asked without a pause, by the bundle that gave them."""

    def __init__(self, running: Any) -> None:
        self.answers: dict[str, set[str]] = defaultdict(set)
        self.failures: list[int] = []
        self.latest = ""
        self._running, self._stop = running, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(3)]

    def __enter__(self) -> "Asked":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._stop.wait(0.02):
            status, _, body = self._running.get(URL)
            if status != 200:
                self.failures.append(status)
                continue
            said = json.loads(body)
            self.answers[said["bundle"]].add(json.dumps(said["price_predictions"]))
            self.latest = said["bundle"]

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"still {self.latest} answers"
            time.sleep(0.05)


def test_a_server_follows_a_retraining_and_a_rollback(
    tmp_path: Path, quick: EnsembleSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLKIT_HOME", str(tmp_path))
    settings = mlkit.Settings(prediction_horizons=(1,), n_threads=1, retrain_age=0.15)
    bars = null_market(1600, seed=4, timeframe="1h", symbol="CALM")
    mlkit.save_bars(bars, settings)
    first = str(retrain(bars.iloc[:1100], settings=settings, ensemble=quick).champion)
    with SERVING["server"](tmp_path, "--deadline", "60") as running, Asked(running) as asked:
        asked.until(lambda: asked.latest == first)
        told = retrain("CALM", "1h", settings, ensemble=quick)
        second = str(told.champion)
        assert told.outcome == "promoted" and second != first
        asked.until(lambda: asked.latest == second)
        assert roll_back("CALM", "1h", settings).id == first
        asked.until(lambda: asked.latest == first)
    assert asked.failures == []
    assert asked.answers.keys() == {first, second}
    root = market_root("CALM", "1h", settings)
    for name, bodies in asked.answers.items():  # one bundle, one answer: that of a predictor of its own
        own = mlkit.Predictor(mlkit.ModelBundle.open(root / name), settings).insight(bars)
        expected = json.loads(own.model_dump_json())["price_predictions"]
        assert [json.loads(body) for body in bodies] == [expected]
