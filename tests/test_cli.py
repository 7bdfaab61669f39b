"""The command: one clear line and exit 2 for every bad input, JSON that is JSON, and a light start."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from mlkit import cli
from mlkit.cli import main
from mlkit.errors import ReportError
from mlkit.inference.predictor import Predictor
from mlkit.market.bars import validate_bars
from mlkit.market.sources import load_bars
from mlkit.models.patterns.cnn import PatternMeta, PatternModel
from mlkit.models.patterns.network import PatternCNN, weights_of
from mlkit.report import ReportRequest

MARKET = ["--symbol", "TEST", "--timeframe", "1d"]
CSV = "timestamp,open,high,low,close,volume\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project of its own."""
    monkeypatch.setenv("MLKIT_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained network in place of the shipped ones."""
    model = PatternModel(weights_of(PatternCNN()), PatternMeta(standard="classic"))
    monkeypatch.setattr("mlkit.models.patterns.pretrained", lambda *_: model)


def csv(path: Path, rows: int = 30, header: str = CSV) -> Path:
    days = pd.date_range("2024-01-01", periods=rows, tz="UTC")
    lines = [f"{day:%Y-%m-%d},100,101,99,100.5,10\n" for day in days]
    path.write_text(header + "".join(lines))
    return path


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one line on standard error; nothing on standard output."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mlkit: error: ") and err.endswith("\n") and err.count("\n") == 1
    assert "Traceback" not in err and "usage:" not in err
    return err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: command"),
        (["nope"], "invalid choice: 'nope'"),
        (["collect"], "invalid choice: 'collect'"),
        (["insights"], "--symbol"),
        (["insights", "--symbol", "../x"], "symbol '../x' is not accepted"),
        (["insights", "--symbol", "a b"], "symbol 'a b' is not accepted"),
        (["insights", "--symbol", "SP500", "--timeframe", "7q"], "timeframe '7q' is unknown; use one of 1m"),
        (
            ["insights", "--symbol", "SP500", "--timeframe", "1d", "--colour"],
            "unrecognized arguments: --colour",
        ),
        (["insights", "--symbol", "NOWHERE", "--timeframe", "1d"], "no bars NOWHERE 1d; there are SP500 1d"),
        (["insights", "--sym", "SP500"], "--symbol"),  # no abbreviations
        (["train", "--timeframe", "1d"], "train needs --symbol"),
        (["train", "--symbol", "SP500"], "train needs --timeframe"),
        (["train", *MARKET, "--seed", "x"], "seed 'x' is not a whole number"),
        (["train", *MARKET, "--seed", "-1"], "seed '-1' is not a whole number"),
        (["train", *MARKET, "--profile", "huge"], "invalid choice: 'huge'"),
        (["train", *MARKET, "--out", "x"], "--out goes with --only patterns"),
        (["train", *MARKET, "--only", "patterns"], "leave --symbol and --timeframe out"),
        (["train", *MARKET], "no bars TEST 1d"),
        (["tune", "--timeframe", "1d"], "tune needs --symbol"),
        (["tune", *MARKET, "--trials", "0"], "'0' is not a whole number of 1 or more"),
        (["tune", *MARKET, "--workers", "x"], "'x' is not a whole number of 1 or more"),
        (["tune", *MARKET], "no bars TEST 1d"),
        (
            ["tune", "--symbol", "SP500", "--timeframe", "1d", "--storage", "nowhere"],
            "storage nowhere cannot be opened",
        ),
        (["report", "-p", "horizon"], "parameter 'horizon' is not name=value"),
        (["report", "-p", "=5"], "parameter '=5' is not name=value"),
        (["report", "--symbol", "../x"], "symbol '../x' is not accepted"),
        (["report", "--timeframe", "7q"], "timeframe '7q' is unknown"),
        (["verify", "reports/none"], "reports/none"),
        (["import", "none.csv", *MARKET], "none.csv: no such file"),
        (["import", "none.csv", *MARKET, "--repair"], "none.csv: no such file"),
        (["import", "none.csv", "--symbol", "../x", "--timeframe", "1d"], "symbol '../x' is not accepted"),
        (["bundle"], "required: action"),
        (["bundle", "verify"], "required: folder"),
        (["bundle", "verify", "nowhere"], "nowhere"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert words in refused(capsys, arguments)


def test_files_that_are_not_bars(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    headless = csv(tmp_path / "headless.csv", header="timestamp,open,high,low,price,volume\n")
    assert "no column 'close'" in refused(capsys, ["import", str(headless), *MARKET])
    assert "no column 'close'" in refused(capsys, ["import", str(headless), *MARKET, "--repair"])
    empty = tmp_path / "empty.csv"
    empty.touch()
    assert "empty" in refused(capsys, ["import", str(empty), *MARKET])
    assert "empty.csv" in refused(capsys, ["import", str(empty), *MARKET, "--repair"])
    binary = tmp_path / "noise.parquet"
    binary.write_bytes(b"\x00\xff" * 50)
    assert "noise.parquet" in refused(capsys, ["import", str(binary), *MARKET])
    assert "noise.parquet" in refused(capsys, ["import", str(binary), *MARKET, "--repair"])


@pytest.mark.usefixtures("network")
def test_too_few_bars(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["import", str(csv(tmp_path / "short.csv", rows=12)), *MARKET]) == 0
    capsys.readouterr()
    assert "need 20 bars for the pattern CNN, have 12" in refused(capsys, ["insights", *MARKET])
    assert "bars to train" in refused(capsys, ["train", *MARKET])


def test_settings_of_the_environment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLKIT_MIN_CONFIDENCE_THRESHOLD", "2")
    line = refused(capsys, ["insights", "--symbol", "SP500", "--timeframe", "1d"])
    assert "MLKIT_MIN_CONFIDENCE_THRESHOLD='2'" in line and "less than or equal to 1" in line


def test_import_brings_bars_into_the_lake(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["import", str(csv(tmp_path / "mine.csv")), *MARKET]) == 0
    out = capsys.readouterr().out
    assert out.startswith("TEST 1d: 30 new bars; 30 bars in ")
    bars = load_bars("TEST", "1d")
    assert len(bars) == 30
    validate_bars(bars)


def test_import_repairs_only_when_asked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = csv(tmp_path / "twice.csv")
    path.write_text(path.read_text() + "2024-01-30,100,101,99,100.5,77\n")
    assert "repair" in refused(capsys, ["import", str(path), *MARKET])
    assert main(["import", str(path), *MARKET, "--repair"]) == 0
    assert "31 rows in, 30 out" in capsys.readouterr().out
    assert len(load_bars("TEST", "1d")) == 30


@pytest.mark.usefixtures("network")
def test_insights_without_a_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    market = ["--symbol", "SP500", "--timeframe", "1d"]
    assert main(["insights", *market]) == 0
    text = capsys.readouterr().out
    assert "Models not trained yet: run mlkit train --symbol SP500 --timeframe 1d" in text
    assert main(["insights", *market, "--json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert document["symbol"] == "SP500" and document["message"] == "Models not trained yet"
    assert document["model_status"]["pattern_cnn_loaded"] is True


def test_status(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert main(["status"]) == 0
    assert "SP500 1d" in capsys.readouterr().out
    current = home / "data/models/SP500-1d/CURRENT"
    current.parent.mkdir(parents=True)
    current.write_text("0123456789abcdef\n")
    assert main(["status", "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert state["bundles"] == {"SP500-1d": "0123456789abcdef"}
    assert "SP500 1d" in state["bars"]


def test_train_passes_its_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    seen: dict[str, Any] = {}

    def walk_forward(bars: list[pd.DataFrame], settings: Any, *, execution: Any, **_: Any) -> str:
        seen.update(symbol=bars[0].attrs["symbol"], seed=settings.seed, profile=settings.profile)
        execution.progress("fold 1/3: xgboost 1", 1, 13)
        return "forecasts"

    def train(bars: list[pd.DataFrame], settings: Any, *, forecasts: str, **_: Any) -> Any:
        assert (len(bars), forecasts) == (1, "forecasts")
        manifest = SimpleNamespace(metrics={"5": {"r2": 0.0, "verdict": "no edge"}, "1": {"r2": None}}, pool={})
        return SimpleNamespace(path=Path("somewhere"), manifest=manifest)

    monkeypatch.setattr("mlkit.operations.training.walk_forward", walk_forward)
    monkeypatch.setattr("mlkit.operations.training.train", train)
    options = ["--symbol", "SP500", "--timeframe", "1d", "--profile", "full", "--seed", "3"]
    assert main(["train", *options]) == 0
    assert seen == {"symbol": "SP500", "seed": 3, "profile": "full"}
    out, err = capsys.readouterr()
    assert [line.split() for line in out.splitlines()] == [
        ["somewhere"], ["bars", "ahead", "r2", "verdict"], ["1", "-", "-"], ["5", "0.000", "no", "edge"],
    ]  # fmt: skip
    assert err == "1/13 fold 1/3: xgboost 1\n"


def test_report_passes_its_options(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run_report(request: ReportRequest, **options: Any) -> Path:
        seen.update(asdict(request), **options)
        return Path("reports/x")

    monkeypatch.setattr("mlkit.report.run_report", run_report)
    monkeypatch.setattr("mlkit.report.summarise_report", str)
    assert main(["report", "-p", "n_splits=4", "-p", "note=a=b", "--seed", "0", "--notebooks", "02,04"]) == 0
    assert seen == {
        "symbol": "SP500",
        "timeframe": "1d",
        "profile": "smoke",
        "seed": 0,
        "name": None,
        "only": ("02", "04"),
        "parameters": {"n_splits": "4", "note": "a=b"},
        "force": False,
        "tracking": False,  # MLKIT_TRACKING of all tests
    }
    assert capsys.readouterr().out == "reports/x\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ReportError("cell 3\nfailed"), 2, "mlkit: error: cell 3 failed\n"),
        (
            PermissionError(13, "Permission denied", "reports"),
            2,
            "mlkit: error: reports: Permission denied\n",
        ),
        (
            ModuleNotFoundError("No module named 'papermill'", name="papermill"),
            2,
            "mlkit: error: papermill is not installed: pip install 'mlkit[train,lab]'\n",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_a_command_raises(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    line: str,
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr("mlkit.report.run_report", fail)
    assert main(["report"]) == code
    assert capsys.readouterr().err == line


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("mlkit.report.run_report", fail)
    with pytest.raises(ZeroDivisionError):
        main(["report"])


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("mlkit ")
    for command in ([], ["report"], ["train"], ["insights"], ["status"], ["import"], ["verify"], ["bundle", "verify"]):
        assert main([*command, "--help"]) == 0
        assert capsys.readouterr().out.startswith("usage: mlkit")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from mlkit.cli import main; main(['--help']);"
        "heavy = {'pandas', 'numpy', 'numba', 'torch', 'pydantic', 'xgboost', 'lightgbm', 'sklearn', 'arch'};"
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_python_dash_m_in_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "mlkit", "insights", "--symbol", "../x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("mlkit: error: symbol '../x'")


def test_the_reader_may_leave_early() -> None:
    """`mlkit status | head -0` ends without a traceback."""
    with subprocess.Popen(
        [sys.executable, "-m", "mlkit", "status"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_every_command_that_is_listed_works() -> None:
    """No stubs: each name of the parser leads to a function of this module."""
    actions = [action for action in cli._parser()._actions if action.dest == "command"]
    assert set(actions[0].choices or ()) == {
        "fetch",
        "report",
        "track",
        "train",
        "retrain",
        "rollback",
        "insights",
        "status",
        "serve",
        "import",
        "data",
        "verify",
        "diff",
        "bundle",
        "scale",
        "drift",
        "tune",
    }


def test_own_pattern_weights_are_trained_resumed_and_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    from mlkit.config import Settings
    from mlkit.models.patterns.cnn import load_cnn
    from mlkit.operations.patterns import cnn_training as pattern_training

    monkeypatch.setitem(pattern_training.PROFILES, "smoke", pattern_training.PROFILES["tiny"])
    command = ["train", "--only", "patterns", "--profile", "smoke", "--seed", "1"]
    folder = home / "data" / "models" / "patterns"

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pattern_training, "calibrated", stopped)  # after the last epoch
        assert main(command) == 130
    assert [path.name for path in folder.iterdir()] == ["checkpoint-smoke-1.safetensors"]
    capsys.readouterr()

    assert main(command) == 0
    out, err = capsys.readouterr()
    paths = [Path(line) for line in out.splitlines()]
    assert paths == [folder / "classic.safetensors", folder / "continuous.safetensors"]
    assert "pattern CNN" in err
    assert not list(folder.glob("checkpoint*"))

    monkeypatch.setenv("MLKIT_PATTERN_WEIGHTS_PATH", "data/models/patterns")
    bars = load_bars("SP500", "1d").iloc[:40]
    found = Predictor(settings=Settings()).pattern_probabilities(bars)
    assert (found.to_numpy()[-1] == load_cnn(paths[0]).probabilities(bars.to_numpy())[-1]).all()
