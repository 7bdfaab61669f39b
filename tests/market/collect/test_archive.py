"""Binance's archive files, made here, from a folder and from a local web server: the lake gets exactly their bars."""

import hashlib
import threading
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlkit.cli import main
from mlkit.config import Settings
from mlkit.errors import ConfigError, FetchError
from mlkit.market.collect import archive as archive_module
from mlkit.market.collect.archive import fetch_archive
from mlkit.market.collect.archive_files import open_archive
from mlkit.market.collect.patience import Patience
from mlkit.market.lake.store import BarStore
from mlkit.market.simulate.markets import null_market


def hours(seed: int) -> pd.DataFrame:
    """November 2024 to 4 February 2025, by the hour."""
    bars = null_market(24 * (30 + 31 + 31 + 4), seed=seed, symbol="BTCUSDT", timeframe="1h")
    bars.index += pd.Timestamp("2024-11-01", tz="UTC") - bars.index[0]
    return bars


TRUTH = hours(6)
MICROSECONDS = pd.Timestamp("2025-01-01", tz="UTC")
NAMES = "open_time open high low close volume close_time quote_volume count taker_buy_volume taker_buy_quote_volume x"
HEADER = ",".join(NAMES.split()) + "\n"
HOUR = 3_600_000_000_000  # ns


def csv(bars: pd.DataFrame, market: str = "spot", header: bool = False) -> str:
    """Rows as Binance writes them: ms, or us in spot files since 2025."""
    unit = 1_000 if market == "spot" and bars.index[0] >= MICROSECONDS else 1_000_000
    rows = []
    for time, values in zip(bars.index.as_unit("ns").asi8.tolist(), bars.to_numpy().tolist(), strict=True):
        ohlcv = ",".join(map(repr, values))
        rows.append(f"{time // unit},{ohlcv},{(time + HOUR) // unit - 1},0.0,7,0.0,0.0,0")
    return (HEADER if header else "") + "\n".join(rows) + "\n"


def zip_file(path: Path, text: str, name: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name or path.with_suffix(".csv").name, text)
    return sign(path)


def sign(path: Path) -> Path:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(path.name + ".CHECKSUM").write_text(f"{digest}  {path.name}\n")
    return path


def month(root: Path, which: str) -> Path:
    return root / "monthly/klines/BTCUSDT/1h" / f"BTCUSDT-1h-{which}.zip"


def day(root: Path, which: str) -> Path:
    return root / "daily/klines/BTCUSDT/1h" / f"BTCUSDT-1h-{which}.zip"


def build(root: Path, market: str = "spot", header: bool = False) -> Path:
    """Three monthly files, and daily ones for the four days after them."""
    for name in ("2024-11", "2024-12", "2025-01"):
        zip_file(month(root, name), csv(TRUTH.loc[name], market, header))
    for date in pd.date_range("2025-02-01", "2025-02-04"):
        zip_file(day(root, f"{date:%F}"), csv(TRUTH.loc[f"{date:%F}"], market, header))
    return root


class Web:
    """A web server over a folder; ``faults`` are taken by the requests of zip files in turn."""

    def __init__(self, folder: Path) -> None:
        self.faults: deque[str | None] = deque()
        self.asked: list[str] = []
        web = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append(self.path.rsplit("/", 1)[-1])
                fault = web.faults.popleft() if self.path.endswith(".zip") and web.faults else None
                if fault is not None and fault.isdigit():
                    self.send_error(int(fault))
                elif fault is not None:
                    data = (folder / self.path.lstrip("/")).read_bytes()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data[:-100] if fault == "cut off" else data[:-1] + b"?")
                else:
                    super().do_GET()

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build(tmp_path / "archive")


@pytest.fixture
def web(root: Path) -> Iterator[Web]:
    server = Web(root)
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def lake(tmp_path: Path) -> Settings:
    return Settings(training_data_path=tmp_path / "bars")


def fetch(place: Path | str, lake: Settings, **options: Any) -> Any:
    files = open_archive(place, options.pop("patience", Patience()), sleep=lambda seconds: None)
    return fetch_archive("BTCUSDT", "1h", files, settings=lake, **options)


def check(lake: Settings, truth: pd.DataFrame = TRUTH, symbol: str = "BTCUSDT") -> None:
    pd.testing.assert_frame_equal(BarStore(lake.lake).read(symbol, "1h"), truth, check_freq=False)


# --- the files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("market", ["spot", "futures"])
@pytest.mark.parametrize("header", [False, True])
def test_months_and_days_of_a_folder_are_the_bars(tmp_path: Path, lake: Settings, market: str, header: bool) -> None:
    report = fetch(build(tmp_path / "files", market, header), lake)
    check(lake)
    assert (report.results[0].added, report.results[0].absent, report.failed) == (len(TRUTH), 0, ())


def test_the_files_may_lie_in_one_folder_without_checksums(root: Path, tmp_path: Path, lake: Settings) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in root.rglob("*.zip"):
        path.rename(flat / path.name)
    fetch(flat, lake)
    check(lake)


def test_a_month_is_read_before_its_days_and_lacking_days_come_from_daily_files(root: Path, lake: Settings) -> None:
    day(root, "2024-11-05").parent.mkdir(exist_ok=True)
    day(root, "2024-11-05").write_bytes(b"not asked for: the month has this day")
    december = TRUTH.loc["2024-12"]
    zip_file(month(root, "2024-12"), csv(pd.concat([december.iloc[:48], december.iloc[60:]])))
    zip_file(day(root, "2024-12-03"), csv(TRUTH.loc["2024-12-03"]))
    assert fetch(root, lake).failed == ()
    check(lake)


def test_a_span_is_half_open(root: Path, lake: Settings) -> None:
    fetch(root, lake, since="2024-11-20T05:00", until="2025-02-03T07:00")
    check(lake, TRUTH.loc["2024-11-20T05:00":"2025-02-03T06:00"])


def test_what_the_lake_has_is_not_read_again(root: Path, lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(root, lake, until="2025-01-10")
    seen: list[str] = []
    read = archive_module.read_zip
    monkeypatch.setattr(
        archive_module,
        "read_zip",
        lambda file, name, *rest, **more: seen.append(name) or read(file, name, *rest, **more),
    )
    fetch(root, lake)
    check(lake)
    assert seen[0] == "BTCUSDT-1h-2025-01.zip" and len(seen) == 5
    assert fetch(root, lake).results[0].added == 0 and len(seen) == 5


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damaged(path: Path) -> None:
    flipped(path)
    path.with_name(path.name + ".CHECKSUM").unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])
    sign(path)


def text(change: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda path: zip_file(path, change(csv(TRUTH.loc["2024-12"])))


def two_members(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("more.csv", "1")
    sign(path)


def bomb(path: Path) -> None:
    zip_file(path, "0" * 50_000_000)
    assert path.stat().st_size < 100_000


FIRST = "1733011200000,"  # the first time of the file
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit flipped, CHECKSUM": (flipped, "is not that of its CHECKSUM file; download it again"),
    "a bit flipped, no CHECKSUM": (damaged, "not a readable zip file"),
    "cut off": (cut, "not a readable zip file"),
    "no zip at all": (lambda path: path.write_bytes(b"<html>") and sign(path), "not a readable zip file"),
    "an empty file": (lambda path: path.write_bytes(b"") or sign(path), "not a readable zip file"),
    "two files in it": (two_members, "more.csv' instead of"),
    "a path upwards": (lambda path: zip_file(path, "x", "../../etc/passwd"), r"holds '\.\./\.\./etc/passwd' instead"),
    "an absolute path": (lambda path: zip_file(path, "x", "/tmp/BTCUSDT-1h-2024-12.csv"), "instead of"),
    "another month's CSV": (lambda path: zip_file(path, "x", "BTCUSDT-1h-2024-11.csv"), "instead of"),
    "a zip bomb": (bomb, "more than the 298,400 bytes"),
    "an empty CSV": (text(lambda rows: ""), "its CSV is empty"),
    "a header only": (text(lambda rows: HEADER), "its CSV (has no rows|is not that of candles)"),
    "rows of November": (text(lambda rows: csv(TRUTH.loc["2024-11"])), "beyond its period"),
    "four columns": (text(lambda rows: "\n".join(",".join(row.split(",")[:4]) for row in rows.split())), "not that of"),
    "text for a price": (text(lambda rows: rows.replace(FIRST, FIRST + "x", 1)), "not that of candles"),
    "seconds among ms": (text(lambda rows: rows.replace("1733014800000,", "1733014800,", 1)), "write one unit"),
    "a bar twice": (text(lambda rows: rows + rows.split("\n", 1)[0].replace(FIRST, FIRST + "1", 1)), "is earlier than"),
    "rows shuffled": (text(lambda rows: "\n".join(rows.split()[::-1])), "is earlier than"),
    "a negative price": (text(lambda rows: rows.replace(FIRST, FIRST + "-", 1)), "not a positive price"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_is_refused_and_the_others_are_read(root: Path, lake: Settings, fault: str) -> None:
    spoil, says = BAD[fault]
    spoil(month(root, "2024-12"))
    with pytest.raises(FetchError, match=f"BTCUSDT-1h-2024-12.zip: .*{says}") as refused:
        fetch(root, lake)
    assert "\n" not in str(refused.value)
    check(lake, pd.concat([TRUTH.loc["2024-11"], TRUTH.loc["2025"]]))
    report: Any = refused.value.report
    print(f"{fault:28} {report.failed[0].error}")
    assert report.results[0].absent == 31 * 24
    zip_file(month(root, "2024-12"), csv(TRUTH.loc["2024-12"]))
    fetch(root, lake)  # the mended file is all that is read
    check(lake)


def test_a_row_that_is_there_twice_is_dropped_and_logged(
    root: Path, lake: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    text(lambda rows: rows.split("\n", 1)[0] + "\n" + rows)(month(root, "2024-12"))
    fetch(root, lake)
    check(lake)
    assert "BTCUSDT-1h-2024-12.zip: 1 repeated rows dropped" in caplog.text


def test_another_market_s_files_are_refused(root: Path, lake: Settings) -> None:
    other = hours(8)
    BarStore(lake.lake).append(other.iloc[:100])
    with pytest.raises(FetchError, match=r"BTCUSDT-1h-2024-11.zip: 100 of 100 bars .* another market"):
        fetch(root, lake, until="2024-12-01")
    check(lake, other.iloc[:100])
    fetch(root, lake, name="BTC_SPOT")
    check(lake, TRUTH, "BTC_SPOT")


# --- the web --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [None, "503", "429", "cut off", "another byte"])
def test_the_web_gives_the_same_bars(web: Web, lake: Settings, fault: str | None) -> None:
    web.faults.extend([None, fault])
    report = fetch(web.url, lake, since="2024-08-01", until="2025-02-05")
    check(lake)
    assert report.results[0].retries == (fault is not None)
    assert len(web.asked) < 60  # of the months before the listing: two questions each


@pytest.mark.parametrize(("fault", "says"), [("403", "HTTP 403; tried 1 times"), ("500", "HTTP 500; tried 3 times")])
def test_a_server_that_refuses_ends_it_and_the_same_call_resumes(
    web: Web, lake: Settings, fault: str, says: str
) -> None:
    web.faults.extend([None, *[fault] * 3])
    patience = Patience(attempts=3)
    with pytest.raises(FetchError, match=f"2024-12.zip: {says}"):
        fetch(web.url, lake, since="2024-11-01", until="2025-02-05", patience=patience)
    check(lake, TRUTH.loc["2024-11"])
    web.faults.clear()
    fetch(web.url, lake, since="2024-11-01", until="2025-02-05")
    check(lake)


def test_a_file_that_stays_damaged_is_named(web: Web, lake: Settings) -> None:
    web.faults.extend([None, *["another byte"] * 3])
    with pytest.raises(FetchError, match=r"2024-12.zip: its SHA-256"):
        fetch(web.url, lake, since="2024-11-01", until="2025-02-05", patience=Patience(attempts=3))
    check(lake, pd.concat([TRUTH.loc["2024-11"], TRUTH.loc["2025"]]))


# --- questions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"archive": "nowhere"}, "nowhere: no such folder"),
        ({"archive": "ftp://host/data"}, "a folder or an http"),
        ({"archive": "http://127.0.0.1:9/data"}, "an address cannot be listed; give since"),
        ({"symbols": "../x"}, "symbol '../x' is not accepted"),
        ({"symbols": "BTC/USDT"}, "is not a name of Binance's archive"),
        ({"symbols": "ETHUSDT"}, "holds no ETHUSDT-1h-YYYY-MM.zip"),
        ({"timeframe": "7m"}, "timeframe '7m'"),
        ({"symbols": []}, "no symbol"),
    ],
)
def test_wrong_questions_get_one_line(root: Path, lake: Settings, change: dict[str, Any], says: str) -> None:
    question = {"symbols": "BTCUSDT", "timeframe": "1h", "archive": root, "settings": lake, **change}
    with pytest.raises((ConfigError, FetchError), match=says):
        fetch_archive(**question)


def test_spot_and_futures_in_one_tree_are_told_apart_by_the_user(tmp_path: Path, lake: Settings) -> None:
    build(tmp_path / "both/spot")
    build(tmp_path / "both/futures", "futures")
    with pytest.raises(FetchError, match="have one name; give the folder of one market"):
        fetch(tmp_path / "both", lake)
    fetch(tmp_path / "both/futures", lake)
    check(lake)


def test_the_command_reads_an_archive(
    root: Path, lake: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLKIT_TRAINING_DATA_PATH", str(lake.lake))
    assert main(["fetch", "BTCUSDT", "--timeframe", "1h", "--archive", str(root)]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["BTCUSDT", "1h", "archive", f"{len(TRUTH):,}"]
    check(lake)
