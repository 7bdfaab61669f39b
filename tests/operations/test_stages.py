"""A training that is killed between its stages or in the middle of one goes on, and comes to the same bits."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import mlkit
from mlkit.errors import ConfigError
from mlkit.evaluation.ledger import Ledger, Source
from mlkit.market.simulate.markets import null_market
from mlkit.models.bundle.publishing import history
from mlkit.models.ensemble.settings import EnsembleSettings, Progress
from mlkit.operations.training.execution import WORK_FOLDER, Execution, resumable

# One process that forks: libraries are imported once, every child has the training to itself and is killed in it.
KILLER = """
import json, os, signal, sys
import mlkit
from mlkit.market.simulate.markets import null_market
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.training import training
from mlkit.operations.training.execution import resumable

bars, few = null_market(1300, seed=8), EnsembleSettings.smoke(**json.loads(sys.argv[2]))
settings = mlkit.Settings(prediction_horizons=(1,), model_storage_path=sys.argv[1], n_threads=1)
for point in json.loads(sys.argv[3]):
    child = os.fork()
    if child == 0:
        seen = []
        def tell(stage, done, total):
            seen.append(stage)
            if stage == point:
                print(json.dumps(seen), flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        def at_last(*_):
            tell("publish", 0, 1)
        training.make_current = at_last
        with resumable(bars, settings, ensemble=few, progress=tell) as execution:
            training.train(bars, settings, ensemble=few, execution=execution)
        os._exit(3)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, point
"""
FEW = {"n_estimators": 8, "early_stopping_rounds": 4, "learning_rate": 0.3, "forest_trees": 3, "n_threads": 1}
KEPT = "kept from an earlier run"
# In the middle of the second fold, between that and the third, in the middle of the final fit, before publishing.
POINTS = ["fold 2/3: lightgbm h=1", "fold 3/3: features", "final fit: xgboost h=1", "publish"]


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return null_market(1300, seed=8)


@pytest.fixture
def settings(tmp_path: Path) -> mlkit.Settings:
    return mlkit.Settings(
        prediction_horizons=(1,), model_storage_path=tmp_path, n_threads=1, ledger_path=tmp_path / "ledger.jsonl"
    )


@pytest.fixture(scope="module")
def straight(bars: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> mlkit.ModelBundle:
    """Of a training that nothing interrupts and that keeps nothing."""
    models = tmp_path_factory.mktemp("straight")
    settings = mlkit.Settings(
        prediction_horizons=(1,), model_storage_path=models, n_threads=1, ledger_path=models / "ledger.jsonl"
    )
    return mlkit.train(bars, settings, ensemble=EnsembleSettings.smoke(**FEW))


def test_a_killed_training_goes_on_to_the_same_bits(
    bars: pd.DataFrame, settings: mlkit.Settings, straight: mlkit.ModelBundle
) -> None:
    models = settings.models
    command = [sys.executable, "-c", KILLER, str(models), json.dumps(FEW), json.dumps(POINTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    kept = [[stage.split(":")[0] for stage in run if stage.endswith(KEPT)] for run in runs]
    assert kept == [[], ["fold 1/3"], ["fold 1/3", "fold 2/3"], ["fold 1/3", "fold 2/3", "fold 3/3"]]
    root = models / f"{bars.attrs['symbol']}-{bars.attrs['timeframe']}"
    assert history(root) == ()  # nothing was published by any of them

    seen: list[str] = []
    few = EnsembleSettings.smoke(**FEW)
    with resumable(bars, settings, ensemble=few, progress=lambda stage, *_: seen.append(stage)) as execution:
        bundle = mlkit.train(bars, settings, ensemble=few, execution=execution)
        assert execution.stages is not None and sorted(path.name for path in execution.stages.iterdir()) == [
            "final.zip", "fold-1-of-3.zip", "fold-2-of-3.zip", "fold-3-of-3.zip",
        ]  # fmt: skip
    assert [stage for stage in seen if not stage.endswith(KEPT)] == ["final fit: features"]  # nothing was fitted
    assert bundle.id == straight.id and history(root) == (bundle.id,)
    assert list((models / WORK_FOLDER).iterdir()) == []  # removed once it was published
    assert Ledger.of(settings).trials([Source.of(bars)]) == 1  # kept folds are a trial of this run too


def test_a_damaged_stage_is_done_again(
    bars: pd.DataFrame, settings: mlkit.Settings, straight: mlkit.ModelBundle, caplog: pytest.LogCaptureFixture
) -> None:
    few = EnsembleSettings.smoke(**FEW)
    stop = stop_at("final fit: calibration")
    with pytest.raises(KeyboardInterrupt), resumable(bars, settings, ensemble=few, progress=stop) as execution:
        mlkit.train(bars, settings, ensemble=few, execution=execution)
    folder = execution.stages
    assert folder is not None
    data = bytearray((folder / "fold-2-of-3.zip").read_bytes())
    data[len(data) // 2] ^= 4
    (folder / "fold-2-of-3.zip").write_bytes(bytes(data))
    (folder / "fold-3-of-3.zip").write_bytes((folder / "fold-3-of-3.zip").read_bytes()[:-7])
    seen: list[str] = []
    note = resumable(bars, settings, ensemble=few, progress=lambda stage, *_: seen.append(stage))
    with caplog.at_level(logging.WARNING), note as execution:
        bundle = mlkit.train(bars, settings, ensemble=few, execution=execution)
    assert [stage for stage in seen if stage.endswith(KEPT)] == [f"fold 1/3: {KEPT}"]
    assert caplog.text.count("is damaged") == 2
    assert bundle.id == straight.id


def stop_at(stage: str) -> Progress:
    def tell(said: str, done: int, total: int) -> None:
        if said == stage:
            raise KeyboardInterrupt

    return tell


def test_the_stages_of_another_training_are_not_found(bars: pd.DataFrame, settings: mlkit.Settings) -> None:
    few = EnsembleSettings.smoke(**FEW)
    others = [
        (bars, settings, few),
        (bars.iloc[:-1], settings, few),
        (bars, settings.model_copy(update={"seed": 8}), few),
        (bars, settings, EnsembleSettings.smoke(**(FEW | {"n_threads": 2}))),
        (bars, settings, None),
        ([bars, bars.assign(volume=1.0).set_axis(bars.index)], settings, few),
    ]
    others[-1][0][1].attrs = {**bars.attrs, "symbol": "OTHER"}
    folders = set()
    for data, chosen, ensemble in others:
        with resumable(data, chosen, ensemble=ensemble) as execution:
            folders.add(execution.stages)
    assert len(folders) == len(others)
    with pytest.raises(RuntimeError), resumable(bars, settings) as execution:
        execution.save("one", {"a": b"1", "b": b"23"})
        raise RuntimeError
    with resumable(bars, settings) as again:
        assert again.load("one") == {"a": b"1", "b": b"23"} and again.load("two") is None
        with pytest.raises(ConfigError, match="the same training runs already"), resumable(bars, settings):
            pass
        again.save("one", {"a": b"1"})
        folder = again.stages
    assert folder is not None and not folder.exists()
    Execution(stages=folder).save("one", {"a": b"1"})
    with resumable(bars, settings, fresh=True) as fresh:
        assert fresh.stages == folder and fresh.load("one") is None
