"""The files of Binance's archive of candles: zips of a month or a day, in a folder or below a web address.

Layout of https://data.binance.vision: ``data/spot`` (or ``data/futures/um``, ``data/futures/cm``), then
``monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01.zip`` and ``daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01-31.zip``, each
beside its ``.CHECKSUM``. A zip holds one CSV file of the same name: open time, open, high, low, close, volume and six
columns more, with a header in newer futures files; times in ms, in spot files since 2025 in us.
"""

import hashlib
import io
import logging
import re
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pandas as pd
import pyarrow as pa
import pyarrow.csv

from mlkit.errors import BarsError, ConfigError, FetchError
from mlkit.market.bars import validate_bars
from mlkit.market.calendar import ALWAYS_OPEN
from mlkit.market.collect.patience import Patience, TemporaryError, retry_after
from mlkit.market.collect.progress_lines import utc
from mlkit.market.times import parse_times, timeframe_delta

_log = logging.getLogger(__name__)
_ROW = 400  # bytes that a row may have; real ones have some 120
_LARGEST = 1 << 28  # bytes of one zip; a month of 1m bars has some 2 MB
_TIMEOUT = 30.0  # seconds without a byte


@dataclass(frozen=True)
class Period:
    """One file's span: a month, or a day."""

    start: pd.Timestamp
    daily: bool

    @property
    def stop(self) -> pd.Timestamp:
        return self.start + (pd.DateOffset(days=1) if self.daily else pd.DateOffset(months=1))

    def file(self, symbol: str, timeframe: str) -> str:
        """Name of its zip."""
        return (
            f"{symbol}-{timeframe}-{self.start:%Y-%m-%d}.zip"
            if self.daily
            else f"{symbol}-{timeframe}-{self.start:%Y-%m}.zip"
        )


def read_zip(file: IO[bytes], file_name: str, period: Period, *, symbol: str, timeframe: str) -> pd.DataFrame:
    """Bars of one archive file, (n_bars, 5); nothing is unpacked to the disk.

    Raises BarsError for a zip that is damaged, holds another file than its own CSV, or more than its period
    can have, and for rows that are not valid bars of the period.
    """
    most = round((period.stop - period.start) / timeframe_delta(timeframe) + 2) * _ROW
    wanted = f"{file_name.removesuffix('.zip')}.csv"
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if [member.filename for member in members] != [wanted]:
                held = ", ".join(repr(member.filename) for member in members[:3]) or "nothing"
                raise BarsError(f"it holds {held} instead of {wanted}")
            with archive.open(members[0]) as content:
                data = content.read(most + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
        raise BarsError(f"not a readable zip file ({error}); download it again") from None
    if len(data) > most:
        raise BarsError(f"its CSV has more than the {most:,} bytes that {period.file(symbol, timeframe)} can have")
    return _bars(data, period, symbol, timeframe)


def _bars(data: bytes, period: Period, symbol: str, timeframe: str) -> pd.DataFrame:
    names = ("open_time", "open", "high", "low", "close", "volume")
    if not data.strip():
        raise BarsError("its CSV is empty")
    header = not data[:1].isdigit()
    columns = data.split(b"\n", 1)[0].count(b",") + 1
    try:
        table = pa.csv.read_csv(
            io.BytesIO(data),
            read_options=pa.csv.ReadOptions(
                use_threads=False, column_names=[*names, *map(str, range(6, columns))], skip_rows=int(header)
            ),
            convert_options=pa.csv.ConvertOptions(
                include_columns=list(names),
                column_types={"open_time": pa.int64(), **dict.fromkeys(names[1:], pa.float64())},
            ),
        )
    except (pa.ArrowInvalid, KeyError) as error:
        raise BarsError(f"its CSV is not that of candles: {' '.join(str(error).split())}") from None
    if not table.num_rows:
        raise BarsError("its CSV has no rows")
    frame = table.to_pandas().drop_duplicates(ignore_index=True)
    if repeated := table.num_rows - len(frame):
        _log.warning("%s: %d repeated rows dropped", period.file(symbol, timeframe), repeated)
    frame = frame.set_index(parse_times(frame.pop("open_time")))
    bars = validate_bars(frame, symbol=symbol, timeframe=timeframe, calendar=ALWAYS_OPEN)
    if bars.index[0] < period.start or bars.index[-1] >= period.stop:
        raise BarsError(f"its bars go from {utc(bars.index[0])} to {utc(bars.index[-1])}, beyond its period")
    return bars


# --- folders and sites --------------------------------------------------------------------------------------


class ArchiveFolder:
    """Zip files in a folder, at any depth."""

    name = "archive"

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ConfigError(f"{root}: no such folder; give the folder or the address of the zip files")
        self.root = root
        self.retries = 0

    def span(self, symbol: str, timeframe: str) -> tuple[pd.Timestamp, pd.Timestamp]:
        """Start of the first file and end of the last."""
        pattern = re.compile(rf"{re.escape(f'{symbol}-{timeframe}')}-(\d{{4}}-\d\d)(-\d\d)?\.zip", re.ASCII)
        found = [pattern.fullmatch(path.name) for path in self.root.rglob(f"{symbol}-{timeframe}-*.zip")]
        dates = [(match[1], match[2]) for match in found if match]
        periods = [Period(pd.Timestamp(month + (day or "-01"), tz="UTC"), day is not None) for month, day in dates]
        if not periods:
            raise ConfigError(
                f"{self.root} holds no {symbol}-{timeframe}-YYYY-MM.zip or {symbol}-{timeframe}-YYYY-MM-DD.zip"
            )
        return min(period.start for period in periods), max(period.stop for period in periods)

    @contextmanager
    def open(self, symbol: str, timeframe: str, period: Period) -> Iterator[IO[bytes] | None]:
        """The zip of a period, its checksum verified; None where there is none."""
        paths = sorted(self.root.rglob(period.file(symbol, timeframe)))
        if len(paths) > 1:
            raise ConfigError(
                f"{paths[0]} and {paths[1]} have one name; give the folder of one market, spot or futures"
            )
        if not paths:
            yield None
            return
        checksum = paths[0].with_name(paths[0].name + ".CHECKSUM")
        with paths[0].open("rb") as file:
            if checksum.is_file():
                _verify(file, checksum.read_bytes())
            yield file


class ArchiveSite:
    """Zip files below a web address, in Binance's layout; a download goes through a temporary file."""

    name = "archive"

    def __init__(self, root: str, patience: Patience, sleep: Callable[[float], None]) -> None:
        self.root = root.rstrip("/")
        self.retries = 0
        self._patience, self._sleep = patience, sleep

    def span(self, symbol: str, timeframe: str) -> tuple[pd.Timestamp, pd.Timestamp]:
        """Raises ConfigError: which files there are is not known before they are asked for."""
        raise ConfigError(f"an address cannot be listed; give since for {symbol} {timeframe} (--since DATE)")

    @contextmanager
    def open(self, symbol: str, timeframe: str, period: Period) -> Iterator[IO[bytes] | None]:
        """The zip of a period, its checksum verified; None where there is none."""
        file = period.file(symbol, timeframe)
        url = f"{self.root}/{'daily' if period.daily else 'monthly'}/klines/{symbol}/{timeframe}/{file}"
        with tempfile.TemporaryFile() as target:
            if not self._download(url, target):
                yield None
                return
            yield target

    def _download(self, url: str, target: IO[bytes]) -> bool:
        """Download into ``target`` and verify; False for a file that does not exist.

        Raises FetchError when patience ends, BarsError for a file that is there but damaged.
        """
        attempts = 0

        def attempt() -> bool:
            nonlocal attempts
            attempts += 1
            self.retries += attempts > 1
            target.seek(0)
            target.truncate()
            try:
                if not _stream(url, target):
                    return False
                checksum = io.BytesIO()
                if _stream(f"{url}.CHECKSUM", checksum):
                    _verify(target, checksum.getvalue())
            except HTTPError as error:
                after = retry_after(dict(error.headers), time.time())
                final = error.code < 500 and error.code not in (408, 418, 429)
                if final or (after or 0.0) > self._patience.longest:
                    raise FetchError(f"{url}: HTTP {error.code}; tried {attempts} times") from None
                raise TemporaryError(f"HTTP {error.code}", after) from None
            except (OSError, HTTPException) as error:  # no connection, or cut off
                reason = " ".join(str(getattr(error, "reason", error)).split())
                raise TemporaryError(reason or type(error).__name__) from None
            target.seek(0)
            return True

        try:
            # BarsError: another checksum, perhaps damaged on the way
            return self._patience.call(attempt, self._sleep, lambda text: None, (TemporaryError, BarsError))
        except TemporaryError as last:
            raise FetchError(f"{url}: {last}; tried {attempts} times") from None


def open_archive(
    archive: str | Path, patience: Patience | None = None, sleep: Callable[[float], None] = time.sleep
) -> ArchiveFolder | ArchiveSite:
    """The archive in a folder or at a web address; ``patience`` and ``sleep``: the waits of downloads.

    Raises ConfigError for another address, and a folder that does not exist.
    """
    scheme = urlsplit(str(archive)).scheme.lower()
    if scheme in ("http", "https"):
        return ArchiveSite(str(archive), patience or Patience(), sleep)
    if "://" in str(archive):
        raise ConfigError(f"{archive}: the archive is a folder or an http(s) address")
    return ArchiveFolder(Path(archive))


def _stream(url: str, target: IO[bytes]) -> bool:
    """Stream an address into a file; False for one that does not exist. OSError where it is cut off or too large."""
    try:
        response = urlopen(Request(url, headers={"User-Agent": "mlkit"}), timeout=_TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 404:
            return False
        raise
    with response:
        promised = response.headers.get("Content-Length")
        size = 0
        while block := response.read(1 << 20):
            size += target.write(block)
            if size > _LARGEST:
                raise OSError(f"more than {_LARGEST >> 20} MiB")
    if promised is not None and size != int(promised):
        raise OSError(f"cut off after {size:,} of {int(promised):,} bytes")
    return True


def _verify(file: IO[bytes], checksum: bytes) -> None:
    """BarsError unless the file has the SHA-256 at the start of its CHECKSUM file."""
    wanted = checksum.split()[:1]
    file.seek(0)
    found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    file.seek(0)
    if wanted != [found.encode()]:
        raise BarsError(f"its SHA-256 {found[:12]}... is not that of its CHECKSUM file; download it again")
