"""Many reports from one file: read strictly, checked before anything runs, one failure does not stop the rest."""

from pathlib import Path
from typing import Any

import pytest

from mlkit.cli import main
from mlkit.errors import ConfigError
from mlkit.report.matrix import read_matrix, run_matrix


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_defaults_are_taken_and_values_stay_as_written(tmp_path: Path) -> None:
    file = written(
        tmp_path / "runs.yaml",
        "defaults: {timeframe: 1d, seed: 8, parameters: {label: 007, other: no}}\n"
        "runs:\n- {symbol: SP500, parameters: {label: 1e3}}\n"
        "- {symbol: NASDAQ, name: second, notebooks: '00,01', since: 2010-01-01}\n",
    )
    first, second = read_matrix(file)
    assert (first.symbol, first.timeframe, first.seed, first.profile) == ("SP500", "1d", "8", "smoke")
    assert first.parameters == {"label": "1e3", "other": "no"}
    assert second.parameters == {"label": "007", "other": "no", "since": "2010-01-01"}
    assert (second.name, second.only) == ("second", ("00", "01"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs: [", "is not YAML"),
        ("[]", "write a list under 'runs'"),
        ("runs: []", "write a list under 'runs'"),
        ("run: [{symbol: A}]", "write a list under 'runs'"),
        ("runs: [{symbol: SP500}]", "run 1: timeframe is missing"),
        ("runs: [{symbol: SP500, timeframe: 1d, sed: 7}]", "run 1: unknown key 'sed'"),
        ("runs: [SP500]", "run 1: expected a mapping"),
        ("runs: [{symbol: SP500, timeframe: 1d, parameters: [a]}]", "parameters must be a mapping"),
        ("runs: [{symbol: SP500, timeframe: 1d}]\nmore: 1", "unknown key 'more'"),
        ("runs: [{symbol: ../x, timeframe: 1d}]", r"run 1: symbol '../x'"),
        ("runs: [{symbol: SP500, timeframe: 1d, name: a/b}]", "name 'a/b' cannot name a report"),
        (
            "runs: [{symbol: SP500, timeframe: 1d}, {symbol: SP500, timeframe: 1d, seed: 8}]",
            "two runs are named SP500-1d",
        ),
        ("runs: [{symbol: SP500, timeframe: 1d, notebooks: '77'}]", "no notebook '77'"),
    ],
)
def test_a_file_that_makes_no_sense_is_one_line_and_nothing_runs(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "runs.yaml", text)
    with pytest.raises(ConfigError, match=message):
        run_matrix(file, progress=False)
    assert main(["report", "--matrix", str(file)]) == 2
    assert capsys.readouterr().err.startswith("mlkit: error: ")


def test_runs_beside_each_other_and_a_failure_among_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLKIT_HOME", str(tmp_path))
    code = 'from mlkit.report import headline\nassert label != "bad", label\nheadline("5 bars", verdict=label)'
    write(tmp_path / "notebooks/00_first.ipynb", code)
    file = written(
        tmp_path / "runs.yaml",
        "defaults: {timeframe: 1d}\nruns:\n- {symbol: SP500, parameters: {label: '007'}}\n"
        "- {symbol: NASDAQ, parameters: {label: bad}}\n",
    )
    assert main(["report", "--matrix", str(file), "--jobs", "2"]) == 2
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "SP500-1d   007"
    assert lines[1].startswith("NASDAQ-1d  00_first.ipynb, cell 4 (In [3]): AssertionError: bad (see ")
    assert "1 of 2 reports failed: NASDAQ-1d" in err
    there = sorted(path.name for path in (tmp_path / "reports").iterdir())
    assert there == [".kept", "SP500-1d", "failed"]
