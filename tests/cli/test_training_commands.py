"""mlkit train from the lake to a published bundle: one market, several in one, and what it says on the way."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mlkit
from mlkit.cli import main
from mlkit.market.simulate.markets import null_market
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.training import training
from mlkit.operations.training.execution import WORK_FOLDER

TRAIN = ["train", "--timeframe", "1h"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two markets in its lake; ensembles of a few trees, one horizon."""
    smoke, few = EnsembleSettings.smoke, {"n_estimators": 5, "forest_trees": 3, "n_threads": 1}
    monkeypatch.setattr(EnsembleSettings, "smoke", lambda **options: replace(smoke(**options), **few))
    monkeypatch.setenv("MLKIT_HOME", str(tmp_path))
    monkeypatch.setenv("MLKIT_LEDGER_PATH", str(tmp_path / "ledger.jsonl"))
    monkeypatch.setenv("MLKIT_PREDICTION_HORIZONS", "[1]")
    for seed, symbol in enumerate(("AAA", "BBB"), start=1):
        bars = null_market(1250, seed=seed, timeframe="1h")
        bars.attrs["symbol"] = symbol
        mlkit.save_bars(bars)
    return tmp_path


def test_one_market_is_trained_published_and_summed_up(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--symbol", "AAA"]) == 0
    out, err = capsys.readouterr()
    path, header, row = out.splitlines()
    bundle = mlkit.ModelBundle.open(home / "data/models/AAA-1h")
    assert Path(path) == bundle.path and header.split()[:4] == ["bars", "ahead", "r2", "hit_rate"]
    measured = bundle.manifest.metrics["1"]
    assert isinstance(measured, dict)
    assert row.split()[:3] == ["1", f"{measured['r2']:.3f}", f"{measured['hit_rate']:.3f}"] and row.endswith("no edge")
    assert "None" not in row and "nan" not in row
    lines = err.splitlines()
    assert lines[0] == "0/1 fold 1/3: features" and lines[-1] == "4/4 final fit: calibration"
    assert all(re.fullmatch(r"\d+/\d+ (fold \d/3|final fit): .+", line) for line in lines)
    assert list((home / "data/models" / WORK_FOLDER).iterdir()) == []


def test_a_killed_command_goes_on_and_fresh_begins_anew(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = training.fit_price
    for options, fitted in (([], ["price", "publish"]), (["--fresh"], ["price", "price", "price", "publish"])):
        purposes: list[str] = []

        def fit(
            *args: object, purpose: str = "price", stop: int, seen: list[str] = purposes, **named: object
        ) -> object:
            seen.append(purpose)
            if len(seen) == stop:
                raise KeyboardInterrupt
            return honest(*args, purpose=purpose, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(training, "fit_price", lambda *a, f=fit, **k: f(*a, stop=3, **k))
        assert main([*TRAIN, "--symbol", "AAA"]) == 130
        purposes.clear()
        monkeypatch.setattr(training, "fit_price", lambda *a, f=fit, **k: f(*a, stop=99, **k))
        capsys.readouterr()
        assert main([*TRAIN, "--symbol", "AAA", *options]) == 0
        assert purposes == fitted
        assert capsys.readouterr().err.count("kept from an earlier run") == 4 - len(fitted)


def test_several_markets_make_one_bundle(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "pair.txt").write_text("# two of them\nBBB\nAAA  # the other\n")
    assert main([*TRAIN, "--universe", str(home / "pair.txt")]) == 0
    out = capsys.readouterr().out
    bundle = mlkit.ModelBundle.open(home / "data/models/pools/pair-1h")
    assert out.startswith(str(bundle.path)) and bundle.manifest.symbols == ("AAA", "BBB")
    assert re.search(r"^AAA, 1,250 bars, out of sample alone: 1: no edge$", out, flags=re.MULTILINE)
    assert mlkit.insights("BBB", "1h").bundle == bundle.id
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bundles"] == {"pools/pair-1h": bundle.id}


def test_what_cannot_be_trained_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "bad.txt").write_text("AAA\nB B\n")
    (home / "gone.txt").write_text("AAA\nCCC\n")
    for options, message in (
        (["--symbol", "AAA", "--symbols", "AAA,BBB"], "not both"),
        (["--symbols", "AAA", "--name", "ONE"], "--name is that of a pool"),
        (["--symbols", "AAA,AAA"], "none twice"),
        (["--universe", str(home / "bad.txt")], "bad.txt, line 2: symbol 'B B'"),
        (["--universe", str(home / "none.txt")], "none.txt: cannot be read"),
        (["--universe", str(home / "gone.txt")], "no bars CCC 1h"),
    ):
        assert main([*TRAIN, *options]) == 2
        out, err = capsys.readouterr()
        assert message in err and len(err.splitlines()) == 1 and not out


def test_in_files_is_the_same_training_and_leaves_no_file(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Any] = []
    honest = training.prepare
    monkeypatch.setattr(training, "prepare", lambda *a, folder, **k: folders.append(folder) or honest(*a, **k))
    assert main([*TRAIN, "--symbols", "AAA,BBB"]) == 0
    work = home / "data/models" / WORK_FOLDER
    assert folders == [None] * 4 and list(work.iterdir()) == []
    assert main([*TRAIN, "--symbols", "AAA,BBB", "--in-files"]) == 0
    assert len(set(folders[4:])) == 4 and all(path.parent.parent == work for path in folders[4:])
    assert list(work.iterdir()) == []
    capsys.readouterr()
    assert main(["train", "--only", "patterns", "--in-files"]) == 2
    assert "leave it out with --only patterns" in capsys.readouterr().err


HOLDER = """
import os, sys, time
from pathlib import Path
from mlkit.models.bundle import only_one
with only_one(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("options", "folder"),
    [(["--symbol", "AAA"], "AAA-1h"), (["--symbols", "AAA,BBB", "--name", "TWO"], "pools/TWO-1h")],
)
def test_a_second_training_of_a_market_is_refused_and_a_killed_one_is_not_in_the_way(
    options: list[str], folder: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[object] = []

    def walk_forward(*args: object, **named: object) -> None:
        began.append(args)
        raise KeyboardInterrupt

    monkeypatch.setattr("mlkit.operations.training.walk_forward", walk_forward)
    command = [sys.executable, "-c", HOLDER, str(home / "data/models" / folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert main([*TRAIN, *options]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"mlkit: error: {folder.split('/')[-1]}: another training, retraining or rollback is")
        assert said.count("\n") == 1 and not began
        assert main([*TRAIN, "--symbol", "BBB"]) == 130 and len(began) == 1  # another market does not wait
        other.kill()  # SIGKILL
    assert main([*TRAIN, *options]) == 130 and len(began) == 2


STEPS = """
from mlkit.cli.steps import Steps
with Steps() as steps:
    for stage in ("fold 1/2", "fold 2/2"):
        for done in range(1, 4):
            steps(f"{stage}: library h={done}", done, 3)
"""


def test_a_terminal_shows_one_bar_a_stage() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    subprocess.run([sys.executable, "-c", STEPS], stderr=theirs, check=True)
    os.set_blocking(ours, False)
    shown = os.read(ours, 65536)
    os.close(theirs)
    os.close(ours)
    ends = [line.split("\r")[-1] for line in shown.decode().replace("\r\n", "\n").split("\n")]
    bars = [line for line in ends if line]
    assert [line.split(":")[0] for line in bars] == ["fold 1/2", "fold 2/2"]
    assert all("100%" in line and "3/3" in line for line in bars)


def test_the_figures_of_a_run_are_drawn(home: Path) -> None:
    from mlkit.cli.train_commands import _figures

    bars = mlkit.load_bars("AAA", "1h")
    figures = _figures(training.walk_forward(bars, n_splits=1))
    assert [title for title, _ in figures] == ["coverage", "reliability h1"]
    assert all(isinstance(figure.axes[0].get_title(), str) for _, figure in figures)
    assert isinstance(bars, pd.DataFrame)


def test_tuned_parameters_are_judged_on_bars_that_tuning_did_not_see(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tuned_on: Callable[..., Any]
) -> None:
    assert main([*TRAIN, "--symbol", "AAA", "--tuned"]) == 2
    assert "nothing was tuned for AAA 1h" in capsys.readouterr().err
    assert main([*TRAIN, "--symbols", "AAA,BBB", "--tuned"]) == 2
    assert "tuned for one market" in capsys.readouterr().err
    settings, bars = mlkit.Settings(), mlkit.load_bars("AAA", "1h")
    seen = bars.iloc[:1000]
    tuned_on(seen, settings, max_depth=2)
    made: list[pd.DataFrame] = []
    honest = training.walk_forward
    monkeypatch.setattr(
        "mlkit.operations.training.walk_forward", lambda *a, **k: made.append(honest(*a, **k)) or made[-1]
    )
    assert main([*TRAIN, "--symbol", "AAA", "--tuned"]) == 0
    assert made[0]["timestamp"].min() > seen.index[-1]
    manifest = mlkit.ModelBundle.open(home / "data/models/AAA-1h").manifest
    assert manifest.settings["ensemble"]["max_depth"] == 2
    assert manifest.metrics["1"]["trials"] == 3  # those of the study, and this one


class Told:
    """Stands for a tracked run: what it was told."""

    key, id = "key", None

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []

    def __getattr__(self, name: str) -> object:
        return lambda *args: self.calls.append((name, args[-1] if name == "bundle" else args[0]))


def test_a_run_is_told_folds_scores_figures_and_the_champion(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, opened = Told(), []

    @contextmanager
    def tracked(kind: str, settings: mlkit.Settings, *, name: str, **about: object) -> Iterator[Told]:
        opened.append((kind, name, settings.tracking))
        yield run

    monkeypatch.setenv("MLKIT_TRACKING", "true")
    monkeypatch.setattr("mlkit.operations.tracking.tracked", tracked)
    monkeypatch.setattr(training, "tracked", tracked)
    assert main([*TRAIN, "--symbol", "AAA"]) == 0
    assert [kind for kind, *_ in opened] == ["train", "evaluate", "train"]  # the library joins the command's run
    assert {about[1:] for about in opened} == {("AAA-1h", True)}
    assert [name for name, _ in run.calls] == ["folds", "scores", "bundle", "figure", "figure"]
    assert run.calls[2][1] == "champion"
    assert isinstance(run.calls[0][1], pd.DataFrame)
    run.calls.clear()
    training.train(mlkit.load_bars("AAA", "1h"), mlkit.Settings(), publish=False)
    assert run.calls[-1] == ("bundle", "challenger")
