"""Every kind of bad bars we know, through three doors: refused in one clear line, repaired and counted, or kept.

pytest tests/market/reading/test_bad_bars.py -s -k table     # prints the table of kinds and answers
"""

import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pandas as pd
import pytest

import mlkit
from mlkit.cli import main
from mlkit.config import Settings
from mlkit.errors import MlkitError
from mlkit.market.bars import validate_bars
from mlkit.market.lake.partitions import encode_month
from mlkit.market.reading.rows import Intake
from mlkit.market.simulate.markets import null_market
from mlkit.report.plan import ReportRequest, make_plan

CLEAN = null_market(60, seed=4, symbol="A")
HEADER = "timestamp,open,high,low,close,volume"
LINES = [HEADER, *(f"{t:%Y-%m-%dT%H:%M:%SZ},{o},{h},{lo},{c},{v}" for t, o, h, lo, c, v in CLEAN.itertuples())]
NOW = pd.Timestamp.now("UTC").floor("min")

Change = Callable[[list[list[str]]], list[list[str]]]


def put(row: int, column: int, value: str) -> Change:
    """Data row ``row`` (from 0) gets another field."""

    def change(rows: list[list[str]]) -> list[list[str]]:
        rows[row + 1][column] = value
        return rows

    return change


def each(column: int, write: Callable[[str], str]) -> Change:
    return lambda rows: [rows[0], *([*r[:column], write(r[column]), *r[column + 1 :]] for r in rows[1:])]


def times(write: Callable[[int, pd.Timestamp], str]) -> Change:
    return lambda rows: [rows[0], *([write(i, CLEAN.index[i]), *r[1:]] for i, r in enumerate(rows[1:]))]


def epochs(*units: str) -> Change:
    return times(lambda i, t: str(pd.DatetimeIndex([t]).as_unit(units[i % len(units)]).asi8[0]))


def header(**names: str) -> Change:
    return lambda rows: [[names.get(name, name) for name in rows[0]], *rows[1:]]


def later(shift: pd.Timedelta, rows: slice = slice(None)) -> Change:
    chosen = set(range(60)[rows])
    return times(lambda i, t: f"{t + shift if i in chosen else t:%Y-%m-%dT%H:%M:%SZ}")


def scaled(start: int, factor: float, stop: int = 60) -> Change:
    """Prices of some rows times a factor: valid bars, each of them."""

    def change(rows: list[list[str]]) -> list[list[str]]:
        for row in rows[start + 1 : stop + 1]:
            row[1:5] = [repr(float(price) * factor) for price in row[1:5]]
        return rows

    return change


def outage(rows: list[list[str]]) -> list[list[str]]:
    return [*rows[:30], *later(pd.Timedelta(days=5))(rows)[30:]]


def clock_time(zone: str, start: str) -> Change:
    """Clock times without a zone, every 30 minutes from a start; strict reading gets them in ``zone``."""
    return times(lambda i, _: f"{pd.Timestamp(start) + pd.Timedelta(minutes=30 * i):%Y-%m-%d %H:%M}")


# kind: (change of the CSV fields, strict answer, answer with --repair, options). An answer is "kept", a part of the
# refusal, or (with --repair) the count of a repair as "=kind number". Options: tz, timeframe, symbol, comma.
Kind = tuple[Change, str, str, dict[str, str]]
SAME: Change = list
KINDS: dict[str, Kind] = {
    "unsorted": (lambda r: [r[0], *r[:0:-1]], "sorted", "=rows out of order 59", {}),
    "exact duplicates": (lambda r: [*r, r[5], r[9]], "once", "=exact duplicates dropped 2", {}),
    "conflicting duplicates": (
        lambda r: [*r, [*r[5][:5], "7"]], "1 times have rows that disagree", "=conflicting rows dropped 1", {},
    ),
    "overlapping pages that disagree": (
        lambda r: [*r[:40], *([*row[:5], "7"] for row in r[30:])],
        "10 times have rows that disagree (2024-01-01 00:29", "=conflicting rows dropped 10", {},
    ),
    "naive timestamps, zone not given": (times(lambda _, t: f"{t:%Y-%m-%d %H:%M}"), "kept", "kept", {}),
    "naive timestamps with a zone": (
        times(lambda _, t: f"{t:%Y-%m-%d %H:%M}"), "kept", "kept", {"tz": "America/New_York"},
    ),
    "some with a zone, some without": (
        times(lambda i, t: f"{t:%Y-%m-%d %H:%M}" + "Z" * (i == 7)), "unlike the first row", "unlike the first row", {},
    ),
    "unknown zone": (times(lambda _, t: f"{t:%Y-%m-%d %H:%M}"), "Mars/Base", "Mars/Base", {"tz": "Mars/Base"}),
    "hole of a clock change": (
        clock_time("Europe/Berlin", "2024-03-31 00:00"), "does not exist in Europe/Berlin", "does not exist in",
        {"tz": "Europe/Berlin", "timeframe": "30m"},
    ),
    "fold of a clock change": (
        clock_time("Europe/Berlin", "2024-10-27 00:00"), "happens twice in Europe/Berlin", "happens twice in",
        {"tz": "Europe/Berlin", "timeframe": "30m"},
    ),
    "epochs in s": (epochs("s"), "kept", "kept", {}),
    "epochs in ms": (epochs("ms"), "kept", "kept", {}),
    "epochs in us": (epochs("us"), "kept", "kept", {}),
    "epochs in ns": (epochs("ns"), "kept", "kept", {}),
    "s and ms mixed": (epochs("s", "ms"), "is not an epoch in s as the first row", "is not an epoch in s", {}),
    "ms and us mixed": (epochs("ms", "us"), "is not an epoch in ms", "is not an epoch in ms", {}),
    "future stamps": (
        later(pd.Timedelta(days=36_500), slice(50, 60)), "not closed yet by this machine's clock",
        "=bars not closed yet dropped 10", {},
    ),
    "partial last candle": (
        times(lambda i, t: f"{NOW + pd.Timedelta(minutes=i - 59):%Y-%m-%dT%H:%M:%SZ}"),
        "not closed yet by this machine's clock", "=bars not closed yet dropped 1", {},
    ),
    "off-grid stamps": (
        later(pd.Timedelta(milliseconds=0) + pd.Timedelta(seconds=7)), "off the 1m grid",
        "off the 1m grid by 7 s", {},
    ),
    "finer than declared": (SAME, "off the 15m grid", "finer than 15m", {"timeframe": "15m"}),
    "coarser than declared": (
        times(lambda i, _: f"{CLEAN.index[0] + pd.Timedelta(minutes=5 * i):%Y-%m-%dT%H:%MZ}"),
        "these are 5m bars, pass that timeframe", "these are 5m bars", {},
    ),
    "mixed timeframes": (
        times(lambda i, t: f"{t + max(0, i - 14) * pd.Timedelta(minutes=4):%Y-%m-%dT%H:%MZ}"),
        "timeframes are mixed", "timeframes are mixed", {},
    ),
    "no time in a row": (put(9, 0, ""), "'timestamp', line 11: ''", "=rows without a time dropped 1", {}),
    "a word for a time": (put(9, 0, "noon"), "'timestamp', line 11: 'noon'", "'timestamp', row 9: 'noon'", {}),
    "NaN price": (put(9, 4, "nan"), "'close', row 9 (2024-01-01 00:09", "=rows without a valid price dropped 1", {}),
    "infinite price": (put(9, 2, "inf"), "inf is infinite", "=rows without a valid price dropped 1", {}),
    "zero price": (put(9, 3, "0"), "0.0 is not a positive price", "=rows without a valid price dropped 1", {}),
    "negative price": (put(9, 1, "-5"), "-5.0 is not a positive", "=rows without a valid price dropped 1", {}),
    "empty field": (put(9, 1, ""), "'open', line 11: '' is not", "=rows without a valid price dropped 1", {}),
    "word for a price": (put(9, 1, "n/a"), "'open', line 11: 'n/a' is not", "=rows with text for a number 1", {}),
    "high below low": (put(9, 2, "1"), "1.0 is below the low", "=ranges widened 1", {}),
    "close outside the range": (put(9, 4, "9999"), "9999.0 is above the high", "=ranges widened 1", {}),
    "negative volume": (put(9, 5, "-1"), "-1.0 is negative", "=volumes set to 0 1", {}),
    "missing volume": (put(9, 5, "nan"), "'volume', row 9", "=volumes set to 0 1", {}),
    "zero volume": (each(5, lambda _: "0"), "kept", "kept", {}),
    "frozen price": (lambda r: [r[0], *([row[0], "5", "5", "5", "5", row[5]] for row in r[1:])], "kept", "kept", {}),
    "split-like jump": (scaled(30, 0.1), "kept", "kept", {}),
    "outlier wick": (put(9, 2, "999999"), "kept", "kept", {}),
    "long outage": (outage, "kept", "kept", {}),
    "decimal commas": (
        each(1, lambda x: x.replace(".", ",")), "has a decimal comma or thousands", "has a decimal comma",
        {"comma": ";"},
    ),
    "thousands separators": (
        each(1, lambda x: f'"{float(x):,.2f}"'), "has a decimal comma or thousands", "has a decimal comma", {},
    ),
    "empty file": (lambda _: [], "the file is empty", "the file is empty", {}),
    "header only": (lambda r: r[:1], "a header but no rows", "a header but no rows", {}),
    "missing column": (lambda r: [row[:5] for row in r], "no column 'volume'", "no column 'volume'", {}),
    "extra column": (lambda r: [[*row, "1"] for row in r], "kept", "kept", {}),
    "wrong-case columns": (header(open="OPEN", close=" Close "), "kept", "kept", {}),
    "column twice": (header(high="open"), "both name the open", "both name the open", {}),
    "no header": (lambda r: r[1:], "no column 'timestamp'", "no column 'timestamp'", {}),
    "short line": (
        lambda r: [*r[:9], r[9][:3], *r[10:]], "Expected 6 columns, got 3", "=lines of another length dropped 1", {},
    ),
    "symbol ../": (SAME, "symbol '../x'", "symbol '../x'", {"symbol": "../x"}),
    "symbol with NUL": (SAME, "symbol 'a\\x00b'", "symbol 'a\\x00b'", {"symbol": "a\0b"}),
    "symbol with newline": (SAME, "symbol 'a\\nb'", "symbol 'a\\nb'", {"symbol": "a\nb"}),
    "symbol of unicode digits": (SAME, "symbol '", "symbol '", {"symbol": "\u0661\u0662"}),
    "symbol of 500 characters": (SAME, "(502 characters)", "(502 characters)", {"symbol": "x" * 500}),
    "unknown timeframe": (SAME, "timeframe '7m' is unknown", "timeframe '7m'", {"timeframe": "7m"}),
}  # fmt: skip
NOT_OF_THE_FILE = ("symbol", "unknown timeframe")


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("MLKIT_TRAINING_DATA_PATH", str(tmp_path / "bars"))
    return Settings()


@pytest.fixture
def notebooks(tmp_path: Path) -> Path:
    cell = nbformat.v4.new_code_cell('symbol: str = "SP500"\ntimeframe: str = "1d"', metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "00_test.ipynb")
    return tmp_path


def write(path: Path, kind: str) -> dict[str, str]:
    change, _, _, options = KINDS[kind]
    rows = change([re.split(",", line) for line in LINES])
    path.write_text("".join(options.get("comma", ",").join(row) + "\n" for row in rows))
    return {"symbol": options.get("symbol", "A"), "timeframe": options.get("timeframe", "1m")}


def answer(call: Callable[[], object]) -> str:
    """What a Python door says: "" or the refusal; anything but our own error is a failed test."""
    try:
        call()
    except MlkitError as error:
        return str(error)
    return ""


def says(expected: str, message: str) -> bool:
    return any(part in message for part in expected.split("|"))


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """What the command line prints on standard output and error, once its exit code fits."""
    code = main(list(arguments))
    out, err = capsys.readouterr()
    assert code == (2 if err else 0)
    if err:
        assert err.startswith("mlkit: error: ") and err.count("\n") == 1
    return out, err


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last candle of NOW is half over, however long the tests before this one took."""
    monkeypatch.setattr("mlkit.market.sources._now", lambda: NOW + pd.Timedelta(seconds=30))


@pytest.mark.parametrize("kind", KINDS)
def test_three_doors_answer(
    kind: str, tmp_path: Path, lake: Settings, notebooks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bars.csv"
    market = write(path, kind)
    _, strict, repair, options = KINDS[kind]
    tz = options.get("tz", "UTC")
    arguments = ["import", str(path), "--symbol", market["symbol"], "--timeframe", market["timeframe"], "--tz", tz]
    accepted = strict in ("kept", "sorted", "once")

    _, err = command(capsys, *arguments)
    message = answer(lambda: mlkit.read_bars(path, tz=tz, **market))
    for told in (err, message):
        assert (told == "") if accepted else says(strict, told), told
    if accepted:
        bars = mlkit.load_bars(**market)
        pd.testing.assert_frame_equal(bars, mlkit.read_bars(path, tz=tz, **market))
        validate_bars(bars)
        planned = answer(lambda: make_plan(ReportRequest(**market), notebooks=notebooks))
        assert planned == ""
    else:
        assert not Path(lake.lake).exists() or not list(Path(lake.lake).glob("*/*/*.parquet"))
        planned = answer(lambda: make_plan(ReportRequest(**market), notebooks=notebooks))
        assert says(strict if kind.startswith(NOT_OF_THE_FILE) else "no bars A", planned)

    out, err = command(capsys, *arguments, "--repair", "--replace")
    if repair.startswith("="):
        assert err == "" and repair[1:] in out
    else:
        assert (err == "") if repair == "kept" else says(repair, err), err


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith(NOT_OF_THE_FILE)])
def test_repairing_twice_changes_nothing(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bars.csv"
    market = write(path, kind)
    intake = Intake(**market, tz=KINDS[kind][3].get("tz", "UTC"), repair=True, now=NOW)
    try:
        intake.add(path)
        bars = intake.bars()
    except MlkitError:
        return
    again, report = mlkit.repair_bars(bars, **market)
    pd.testing.assert_frame_equal(again, validate_bars(bars), check_freq=False)
    assert report.total == 0


def test_a_bad_file_laid_into_the_lake_by_hand_is_refused(lake: Settings) -> None:
    folder = Path(lake.lake) / "symbol=A" / "timeframe=1m"
    folder.mkdir(parents=True)
    for values, part in (
        (CLEAN.assign(high=1.0), "'high', row 0"),
        (CLEAN.set_axis(CLEAN.index + pd.Timedelta(seconds=7)), "off the 1m grid"),
        (CLEAN.iloc[::-1], "earlier than"),
    ):
        raw = encode_month((values.index.as_unit("ns").asi8, values.to_numpy().T))
        (folder / "2024-01.parquet").write_bytes(raw)
        assert says(part, answer(lambda: mlkit.load_bars("A", "1m")))
    CLEAN.reset_index().drop(columns="low").to_parquet(folder / "2024-01.parquet")
    assert "not a readable Parquet file of bars (columns" in answer(lambda: mlkit.load_bars("A", "1m"))
    (folder / "2024-01.parquet").write_bytes(b"PAR1")
    assert "not a readable Parquet file" in answer(lambda: mlkit.load_bars("A", "1m"))


def test_the_table() -> None:
    assert len(KINDS) >= 36
    print(f"\n{'kind':34} {'as it comes':48} with --repair")
    for kind, (_, strict, repair, _) in KINDS.items():
        plain = strict if strict in ("kept", "sorted", "once") else f"refused: ...{strict}..."
        mended = repair[1:] if repair.startswith("=") else repair if repair == "kept" else "refused"
        print(f"{kind:34} {plain[:47]:48} {mended}")
