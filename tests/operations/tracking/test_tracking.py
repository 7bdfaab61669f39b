"""Tracking against a real MLflow: its database; what is recorded, and where."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlkit.config import Settings
from mlkit.errors import ConfigError
from mlkit.evaluation.ledger import Ledger, Source
from mlkit.market.simulate.markets import null_market
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.tracking import tracking
from mlkit.operations.tracking.tracking import alias, for_command, tracked
from mlkit.operations.tracking.trials import recorded
from mlkit.operations.training.scoring import fold_scores, score
from mlkit.operations.training.training import walk_forward

pytest.importorskip("mlflow")
ON = {"tracking": True}


@pytest.fixture
def home(mlflow_home: Path) -> Path:
    return mlflow_home


@pytest.fixture
def there(recorded_by_mlflow: Any) -> Any:
    return recorded_by_mlflow


# --- what is recorded -----------------------------------------------------------------------------


def test_a_run_is_recorded_with_all_that_it_logged(home: Path, there: Any) -> None:
    scores = pd.DataFrame(
        {"hit_rate": [0.5, 0.6], "r2": [np.nan, 0.01], "verdict": ["no edge", "edge"]},
        index=pd.Index([1, 5], name="horizon"),
    )
    settings = Settings(seed=11, **ON)
    with tracked("train", settings, name="SP500-1d", parameters={"trees": {"depth": 3}}, sources=[there.source]) as run:
        run.scores(scores)
        run.metrics({"loss": 1.5, "text": "no number", "none": None, "infinite": np.inf}, step=2)
        run.parameters({"later": [1, 2], "seed": 12})
        run.figure("reliability", there.figure())
        run.text("notes", "plain")
        (home / "page.html").write_text("<p>page</p>")
        run.file(home / "page.html", "report")
    (found,) = there.runs()
    assert found.info.run_id == run.id and found.info.status == "FINISHED" and found.info.run_name == "SP500-1d"
    params = found.data.params
    assert params["seed"] == "11" and params["trees.depth"] == "3" and params["later"] == "[1, 2]"
    assert params["data.sha256"] == there.source.sha256 and params["profile"] == "smoke"
    assert {"loss", "hit_rate", "hit_rate h1", "hit_rate h5", "r2", "r2 h5"} == set(found.data.metrics)
    history = there.ask(lambda client: client.get_metric_history(run.id, "hit_rate"))
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (5, 0.6)]
    assert found.data.tags["verdict h5"] == "edge" and found.data.tags["mlkit.kind"] == "train"
    path = there.ask(lambda client: client.download_artifacts(run.id, "versions.json", str(home / "data")))
    assert json.loads(Path(path).read_text())["numpy"] == np.__version__
    assert [one.dataset.digest for one in found.inputs.dataset_inputs] == [there.source.sha256[:36]]
    assert there.artifacts(str(run.id)) == ["figures", "notes.txt", "report", "tables", "versions.json"]
    image = there.ask(lambda client: client.download_artifacts(run.id, "figures/reliability.png", str(home)))
    assert Path(image).read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in home.iterdir()} == {"data", "page.html", "reliability.png"}, "no mlruns at the top"


def test_the_commit_and_the_dirt_are_recorded(home: Path, there: Any) -> None:
    git = ["git", "-C", str(home), "-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    subprocess.run([*git, "init", "-q"], check=True)
    (home / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    with tracked("evaluate", Settings(**ON), name="x"):
        pass
    (found,) = there.runs()
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert found.data.tags["mlflow.source.git.commit"] == head
    assert found.data.tags["mlkit.git.dirty"] == "true"  # data/ is new there


def test_metrics_of_every_fold_have_the_fold_as_step(home: Path, there: Any) -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"bar": np.tile(np.arange(60), 2), "horizon": np.repeat([1, 5], 60)})
    rows["fold"] = rows["bar"] // 30
    for name in ("outcome", "earned", "log_return"):
        rows[name] = rng.normal(size=len(rows))
    rows["p_up"] = rng.uniform(size=len(rows))
    for name in ("lo80", "lo90", "low90"):
        rows[name] = -1.0
    for name in ("hi80", "hi90", "high90"):
        rows[name] = 1.0
    with tracked("evaluate", Settings(**ON), name="x") as run:
        run.folds(fold_scores(rows))
    history = there.ask(lambda client: client.get_metric_history(run.id, "fold coverage_80 h5"))
    inside = rows[rows["horizon"] == 5].groupby("fold")["outcome"].agg(lambda y: (y.abs() <= 1.0).mean())
    assert {point.step: point.value for point in history} == pytest.approx(dict(inside))
    assert list(fold_scores(rows).index) == [(0, 1), (0, 5), (1, 1), (1, 5)]


def test_how_a_run_ended_is_recorded_and_passed_on(home: Path, there: Any) -> None:
    for error in (ValueError("broken\nbadly"), KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(type(error)), tracked("train", Settings(**ON), name="x"):
            raise error
    found = there.runs()
    assert [run.info.status for run in found] == ["FAILED", "KILLED", "KILLED"]
    assert found[0].data.tags["mlkit.error"] == "ValueError: broken badly"


def test_runs_inside_runs_join_or_lie_below(home: Path, there: Any) -> None:
    settings = Settings(**ON)
    with tracked("retrain", settings, name="outer") as outer:
        with tracked("evaluate", settings, name="joined", parameters={"more": 1}, sources=[there.source]) as joined:
            pass
        with tracked("train", settings, name="inner") as inner:
            with tracked("train", settings, name="library") as same:
                pass
            assert tracking.active() is inner
    assert joined is outer and same is inner and tracking.active() is None
    above, below = there.runs()
    assert above.data.params["more"] == "1" and above.data.params["data.sha256"] == there.source.sha256
    assert [one.dataset.name for one in above.inputs.dataset_inputs] == ["SP500-1d"]
    assert below.data.tags["mlflow.parentRunId"] == above.info.run_id


def test_what_is_tracked_and_what_is_not(home: Path, there: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracked("train", Settings(), name="smoke profile, library call") as run:
        run.metrics({"a": 1.0})
        run.figure("a", None)
        run.bundle(there.bundle_in(home / "models"))
        assert run.id is None and run.key is None and tracking.active() is None
    with tracked("train", for_command(Settings(tracking=False)), name="switched off"):
        pass
    assert there.runs() == []
    with tracked("train", for_command(Settings()), name="command"):
        pass
    with tracked("train", Settings(profile="full"), name="full profile"):
        pass
    assert [run.info.run_name for run in there.runs()] == ["command", "full profile"]
    monkeypatch.setenv("MLKIT_TRACKING", "false")
    assert for_command(Settings()).tracking is False


HOSTILE = [
    "",
    "../../etc/passwd",
    "a\nb\x1b[31mred\x00",
    "'; DROP TABLE runs; --",
    "<script>alert(1)</script>",
    "x" * 5000,
    "данные 数据 🙂",
    "a/b:c%2F..",
    "...",
]


def test_hostile_names_are_names(home: Path, there: Any) -> None:
    for name in HOSTILE:
        with tracked("train", Settings(**ON), name=name, parameters={name: name, "dict": {name: 1}}) as run:
            run.metrics({name: 1.0, f"{name}/{name}": 2.0})
            run.tags({name: name})
            run.text(name, name)
            run.table(name, pd.DataFrame({name: [name]}))
            run.file(home / "data" / "mlflow.db", name)
    found = there.runs()
    assert len(found) == len(HOSTILE) and {run.info.status for run in found} == {"FINISHED"}
    assert all(len(run.data.metrics) >= 1 and run.info.run_name for run in found)
    assert {path.name for path in home.iterdir()} == {"data"}
    assert {path.name for path in (home / "data").iterdir()} == {"mlflow.db", "mlartifacts"}


# --- the registry ---------------------------------------------------------------------------------


def test_bundles_are_versions_of_their_market_and_aliases_move(home: Path, there: Any) -> None:
    settings = Settings(**ON)
    old, new = there.bundle_in(home / "models", "old"), there.bundle_in(home / "models", "new")
    with tracked("train", settings, name="x") as run:
        run.bundle(old, "champion")
    with tracked("retrain", settings, name="x") as second:
        second.bundle(new, "challenger")
    by_alias = there.ask(lambda c: {a: c.get_model_version_by_alias("SP500-1d", a) for a in ("champion", "challenger")})
    assert (
        by_alias["champion"].tags["mlkit.bundle"] == old.id
        and by_alias["champion"].tags["verdicts"] == "1: no edge, 5: no edge"
    )
    assert by_alias["challenger"].tags["mlkit.bundle"] == new.id
    assert by_alias["challenger"].source == f"runs:/{second.id}/bundles/{new.id}"
    assert there.artifacts(str(run.id), f"bundles/{old.id}") == [
        f"bundles/{old.id}/{name}" for name in ("manifest.json", "more.json", "words.txt")
    ]
    alias(settings, new, "champion")
    model = there.ask(lambda client: client.get_registered_model("SP500-1d"))
    assert {name: str(version) for name, version in model.aliases.items()} == {"champion": "2"}
    alias(settings, old, "champion")  # rolled back
    with tracked("train", settings, name="again") as third:
        third.bundle(old, "champion")
    model = there.ask(lambda client: client.get_registered_model("SP500-1d"))
    assert {name: str(version) for name, version in model.aliases.items()} == {"champion": "1"}
    assert len(there.runs()) == 3, "an alias of a registered bundle needs no run"
    with pytest.raises(ConfigError, match="neither champion nor challenger"), tracked("train", settings, name="x") as r:
        r.bundle(old, "latest")  # type: ignore[arg-type]


def test_a_bundle_that_was_never_tracked_is_registered_with_its_alias(home: Path, there: Any) -> None:
    settings = Settings(**ON)
    bundle = there.bundle_in(home / "models", symbol="BTC/USDT:USDT")
    alias(settings, bundle, "champion")
    version = there.ask(lambda client: client.get_model_version_by_alias("BTC%2FUSDT%3AUSDT-1d", "champion"))
    assert version.tags["mlkit.bundle"] == bundle.id
    (run,) = there.runs()
    assert run.info.status == "FINISHED" and len(there.artifacts(run.info.run_id, f"bundles/{bundle.id}")) == 3
    alias(Settings(tracking=False), bundle, "challenger")
    model = there.ask(lambda client: client.get_registered_model("BTC%2FUSDT%3AUSDT-1d"))
    assert set(model.aliases) == {"champion"}


# --- the ledger -----------------------------------------------------------------------------------


def test_a_fit_is_counted_once_and_known_to_the_ledger_and_to_the_run(home: Path, there: Any) -> None:
    settings = Settings(**ON)
    with tracked("train", settings, name="x", sources=[there.source]) as run:
        for fold in range(3):
            with recorded(settings, [there.source], {"depth": 3}):
                run.metrics({"loss": 1.0}, step=fold)
        with recorded(settings, [there.source], {"depth": 4}):
            pass
        with recorded(settings, [there.source], {"depth": 4}, purpose="publish"):  # judged already: no trial
            pass
    with recorded(settings, [there.source], {"depth": 5}):
        pass
    ledger = Ledger.of(settings)
    assert ledger.trials([there.source]) == 3
    starts = [entry for entry in ledger.entries() if entry["event"] == "start"]
    assert [entry.get("tracked") for entry in starts] == [{"key": run.key, "id": run.id}] * 5 + [None]
    history = there.ask(lambda client: client.get_metric_history(run.id, "trials"))
    values = sorted(point.value for point in history)  # told after every fit; a store keeps one of a millisecond
    assert set(values) == {1.0, 2.0} and values.count(2.0) == 1 and len(values) <= 4
    found = there.runs()[0].data.metrics
    assert found["trials"] == 2.0 and found["trials publish"] == 1.0


def test_an_evaluation_by_itself_is_a_run_with_scores_of_folds_and_horizons(home: Path, there: Any) -> None:
    few = EnsembleSettings.smoke(n_estimators=8, forest_trees=4, n_threads=1)
    bars = null_market(1200, seed=1, timeframe="1h", symbol="NULL")
    settings = Settings(tracking=True, prediction_horizons=(1,), n_threads=1)
    forecasts = walk_forward(bars, settings, n_splits=1, ensemble=few)
    (found,) = there.runs()
    assert found.info.run_name == "NULL-1h" and found.data.tags["mlkit.kind"] == "evaluate"
    scores = score(forecasts, settings)
    assert found.data.metrics["hit_rate h1"] == found.data.metrics["fold hit_rate h1"] == scores.loc[1, "hit_rate"]
    assert found.data.tags["verdict h1"] == scores.loc[1, "verdict"] and found.data.metrics["trials"] == 1.0
    assert found.data.params["data.sha256"] == Source.of(bars).sha256
