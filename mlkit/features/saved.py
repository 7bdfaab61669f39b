"""Features on disk or in an object store: a Parquet file a month beside a receipt that says what they are.

    <location>/symbol=<S>/timeframe=<tf>/YYYY-MM.parquet    timestamp and one float32 column a feature
    <location>/symbol=<S>/timeframe=<tf>/_features.json     which bars, columns and versions; digests of the months

Each file is replaced in one step and the receipt is written last, so whoever reads it finds what it names: a writer
that was killed is repeated, two that write the same at once write the same bytes. A history of any length passes
through memory month by month, by way of `FeatureStream`, to the bits of `build_features`.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit.errors import LakeError
from mlkit.features.engine import DEFAULT_GARCH, FEATURE_NAMES, FeatureStream
from mlkit.market import fingerprint, open_times, symbol_folder, validate_bars
from mlkit.market.lake import Folder, open_folder

if TYPE_CHECKING:
    import pandas as pd

RECEIPT = "_features.json"
SCHEMA = 2  # 1: features went on over any outage


def save_features(
    bars: "pd.DataFrame", location: str | Path, *, garch: tuple[float, float, float] = DEFAULT_GARCH
) -> dict[str, Any]:
    """Write the features of every bar, unless the very same ones are there.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5)
    location : path or fsspec URL of the folder of all features
    garch : as in `build_features`

    Returns
    -------
    The receipt: ``rows``, ``bytes``, ``dataset`` (the bars' fingerprint), ``columns``, ``files`` and more; its
    ``written`` tells whether this call wrote anything.

    Raises
    ------
    BarsError for bars that break the contract; LakeError where the system refuses.
    """
    bars = validate_bars(bars)
    folder, place = open_folder(location), place_of(bars.attrs["symbol"], bars.attrs["timeframe"])
    about = {
        "schema": SCHEMA,
        "symbol": bars.attrs["symbol"],
        "timeframe": bars.attrs["timeframe"],
        "rows": len(bars),
        "dataset": fingerprint(bars),
        "garch": list(garch),
        "columns": list(FEATURE_NAMES),
        "versions": {name: version(name) for name in ("numba", "numpy")},
    }
    held = _receipt(folder, place)
    same = held is not None and all(held.get(key) == value for key, value in about.items())
    if held is not None and same and set(held["files"]) <= set(folder.names(place)):
        return held | {"written": False}
    files: dict[str, dict[str, Any]] = {}
    for name, data, rows in _months(bars, garch):
        folder.commit(f"{place}/{name}", data)
        files[name] = {"rows": rows, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    receipt = about | {"bytes": sum(file["bytes"] for file in files.values()), "files": files}
    folder.commit(f"{place}/{RECEIPT}", json.dumps(receipt, indent=1, sort_keys=True).encode())
    for name in folder.names(place):  # months of an earlier, longer history
        if name.endswith(".parquet") and name not in files and not name.startswith("."):
            folder.remove(f"{place}/{name}")
    return receipt | {"written": True}


def read_features(symbol: str, timeframe: str, location: str | Path) -> "pd.DataFrame":
    """What `save_features` wrote: float32 (n_bars, n_features), as of `build_features`.

    LakeError where there is nothing, or not what the receipt names.
    """
    import pandas as pd
    import pyarrow.parquet

    folder, place = open_folder(location), place_of(symbol, timeframe)
    receipt = _receipt(folder, place)
    if receipt is None:
        raise LakeError(f"{folder.location}/{place}: no features; mlkit scale features writes them")
    parts = []
    for name, file in receipt["files"].items():
        data = folder.read(f"{place}/{name}")
        if data is None or hashlib.sha256(data).hexdigest() != file["sha256"]:
            fault = "is missing" if data is None else "is not what the receipt names"
            raise LakeError(f"{folder.location}/{place}/{name} {fault}; run mlkit scale features again")
        parts.append(pyarrow.parquet.read_table(io.BytesIO(data)).to_pandas())
    frame: pd.DataFrame = pd.concat(parts).set_index("timestamp")
    frame.attrs.update(symbol=symbol, timeframe=timeframe)
    return frame


def place_of(symbol: str, timeframe: str) -> str:
    """Folder of a market, relative to that of all of them."""
    return f"symbol={symbol_folder(symbol)}/timeframe={timeframe}"


def _receipt(folder: Folder, place: str) -> dict[str, Any] | None:
    """The receipt, if there is one that can be read."""
    raw = folder.read(f"{place}/{RECEIPT}")
    try:
        found: dict[str, Any] | None = None if raw is None else json.loads(raw)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else None


def _months(bars: "pd.DataFrame", garch: tuple[float, float, float]) -> Iterator[tuple[str, bytes, int]]:
    """(name, Parquet file, rows) of every month with bars, in order."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet

    index = pd.DatetimeIndex(bars.index)
    month = np.asarray(index.year * 12 + index.month)
    starts = np.flatnonzero(np.diff(month, prepend=-1)).tolist()
    stream, times = FeatureStream(garch=garch), open_times(bars)
    for first, last in zip(starts, [*starts[1:], len(bars)], strict=True):
        rows = stream.extend(bars.iloc[first:last])
        columns = [
            pa.array(times[first:last], pa.timestamp("ns", tz="UTC")),
            *(pa.array(np.ascontiguousarray(column)) for column in rows.T),
        ]
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(
            pa.table(columns, names=["timestamp", *FEATURE_NAMES]), buffer, compression="zstd", use_dictionary=False
        )
        yield f"{index[first]:%Y-%m}.parquet", buffer.getvalue(), last - first
