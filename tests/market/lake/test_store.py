"""The lake: what is appended is read back, a commit is all or nothing, and damage never passes as bars."""

import json
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlkit.errors import BarsError, ConfigError, LakeError
from mlkit.market.bars import validate_bars
from mlkit.market.lake.store import BarStore
from mlkit.market.simulate.markets import null_market

MONTHS = null_market(3 * 31 * 24, seed=3, timeframe="1h", symbol="BTC/USDT:USDT")  # January to April 2024
MARKET = ("BTC/USDT:USDT", "1h")


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BarStore:
    return BarStore(tmp_path / "bars" if request.param == "local" else f"memory://{tmp_path.name}/bars")


@pytest.fixture
def local(tmp_path: Path) -> BarStore:
    return BarStore(tmp_path / "bars")


def folder(store: BarStore) -> Path:
    return Path(store.location) / "symbol=BTC%2FUSDT%3AUSDT" / "timeframe=1h"


def changed(bars: pd.DataFrame, row: int, volume: float = 7777.0) -> pd.DataFrame:
    bars = bars.copy()
    bars.iloc[row, 4] = volume
    return bars


def test_what_is_appended_in_any_order_is_read_back_to_the_bit(store: BarStore) -> None:
    rng = np.random.default_rng(5)
    pieces = [MONTHS.iloc[start : start + 300] for start in range(0, len(MONTHS), 250)]  # they overlap
    for number in rng.permutation(len(pieces)):
        store.append(pieces[number])
    pd.testing.assert_frame_equal(store.read(*MARKET), MONTHS)
    assert store.markets() == [MARKET]
    assert store.last(*MARKET) == MONTHS.index[-1]
    manifest = store.manifest(*MARKET)
    assert manifest is not None
    assert (manifest.rows, manifest.first, manifest.last) == (len(MONTHS), MONTHS.index[0], MONTHS.index[-1])
    assert [part.name for part in manifest.files] == [f"2024-0{month}.parquet" for month in (1, 2, 3, 4)]


def test_an_empty_lake_says_so_and_makes_no_folder(store: BarStore) -> None:
    assert store.markets() == []
    assert store.manifest(*MARKET) is None and store.last(*MARKET) is None
    with pytest.raises(BarsError, match="no bars in"):
        store.read(*MARKET)
    assert not Path(store.location).exists()


def test_equal_bars_are_counted_and_nothing_is_written(store: BarStore) -> None:
    first = store.append(MONTHS.iloc[:800])
    again = store.append(MONTHS.iloc[100:700])
    more = store.append(MONTHS.iloc[700:900])
    assert (first.added, first.known, first.rows, first.generation) == (800, 0, 800, 1)
    assert (again.added, again.known, again.generation, again.dataset) == (0, 600, 1, first.dataset)
    assert (more.added, more.known, more.rows, more.generation) == (100, 100, 900, 2)
    assert more.dataset != first.dataset


def test_bars_that_disagree_are_refused_kept_or_replaced(store: BarStore) -> None:
    store.append(MONTHS)
    other = changed(MONTHS.iloc[50:60], 3)
    with pytest.raises(BarsError) as caught:
        store.append(other)
    for part in ("1 bars", "2024-01-03 05:00 volume", "7777.0 new", "nothing was written", '"replace"'):
        assert part in str(caught.value)
    pd.testing.assert_frame_equal(store.read(*MARKET), MONTHS)
    kept = store.append(other, on_conflict="keep")
    assert (kept.added, kept.known, kept.revised) == (0, 9, 1)
    pd.testing.assert_frame_equal(store.read(*MARKET), MONTHS)
    taken = store.append(other, on_conflict="replace", source="exchange")
    assert taken.revised == 1
    pd.testing.assert_frame_equal(store.read(*MARKET), changed(MONTHS, 53))
    manifest = store.manifest(*MARKET)
    assert manifest is not None and (manifest.revised, manifest.source) == (1, "exchange")
    with pytest.raises(ConfigError, match="on_conflict='guess'"):
        store.append(other, on_conflict="guess")  # type: ignore[arg-type]


def test_a_conflict_in_the_last_month_keeps_the_first_unwritten(store: BarStore) -> None:
    store.append(MONTHS.iloc[500:])
    with pytest.raises(BarsError, match="other values"):
        store.append(changed(MONTHS, -1))
    pd.testing.assert_frame_equal(store.read(*MARKET), MONTHS.iloc[500:])


def test_replace_leaves_exactly_the_new_bars(store: BarStore) -> None:
    store.append(MONTHS)
    new = changed(MONTHS.iloc[800:900], 5)  # drops January, and most of February
    store.replace(new)
    pd.testing.assert_frame_equal(store.read(*MARKET), new)


def test_equal_bars_have_one_dataset_hash_by_every_history(store: BarStore, tmp_path: Path) -> None:
    whole = BarStore(tmp_path / "other").append(MONTHS).dataset
    store.append(changed(MONTHS.iloc[300:], 2))
    store.append(MONTHS.iloc[:310], on_conflict="replace")
    assert store.append(MONTHS).dataset == whole
    assert store.append(changed(MONTHS, 4), on_conflict="replace").dataset != whole


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (700, 800), (0, 2232), (743, 745), (900, 900)])
def test_a_span_is_half_open(store: BarStore, start: int, stop: int) -> None:
    store.append(MONTHS)
    times = [*MONTHS.index, MONTHS.index[-1] + pd.Timedelta(hours=1)]
    part = store.read(*MARKET, times[start], times[stop])
    pd.testing.assert_frame_equal(part, MONTHS.iloc[start:stop], check_freq=False)
    assert part.attrs == MONTHS.attrs


def test_a_span_opens_only_its_months(local: BarStore) -> None:
    local.append(MONTHS)
    (folder(local) / "2024-01.parquet").write_bytes(b"damage")
    assert len(local.read(*MARKET, pd.Timestamp("2024-02-10", tz="UTC"), pd.Timestamp("2024-03-02", tz="UTC"))) == 504
    assert local.last(*MARKET) == MONTHS.index[-1]
    with pytest.raises(LakeError, match=r"2024-01.parquet is damaged .* restore"):
        local.read(*MARKET)
    (folder(local) / "2024-01.parquet").unlink()
    with pytest.raises(LakeError, match=r"2024-01.parquet is missing"):
        local.read(*MARKET)
    with pytest.raises(LakeError, match=r"2024-01.parquet is missing"):
        local.append(MONTHS.iloc[:3])


def test_only_valid_bars_are_written(local: BarStore) -> None:
    with pytest.raises(BarsError, match="'volume', row 3"):
        local.append(changed(MONTHS, 3, -1.0))
    assert not Path(local.location).exists()


def test_a_lake_without_its_manifest_is_read_by_its_files(local: BarStore) -> None:
    local.append(MONTHS)
    before = local.manifest(*MARKET)
    (folder(local) / "_manifest.json").unlink()
    (folder(local) / "2024-02.parquet").write_bytes(b"PAR1")
    with pytest.raises(LakeError, match=r"2024-02\.parquet: not a readable Parquet file"):
        local.read(*MARKET)
    (folder(local) / "2024-02.parquet").unlink()  # damaged: deleted with the manifest, and imported again
    rest = MONTHS[MONTHS.index.month != 2]
    pd.testing.assert_frame_equal(local.read(*MARKET), rest, check_freq=False)
    assert local.markets() == [MARKET] and local.last(*MARKET) == MONTHS.index[-1]
    assert local.append(rest.iloc[:5]).generation == 1  # nothing is new, but the manifest is written again
    commit = local.append(MONTHS)
    assert before is not None and (commit.generation, commit.dataset) == (2, before.dataset)
    pd.testing.assert_frame_equal(local.read(*MARKET), MONTHS)


def test_bars_of_another_market_under_this_name_are_refused(local: BarStore) -> None:
    local.append(MONTHS)
    folder(local).parent.rename(folder(local).parent.parent / "symbol=ETHUSDT")
    with pytest.raises(LakeError, match="holds BTC/USDT:USDT 1h, not ETHUSDT 1h"):
        local.read("ETHUSDT", "1h")


def test_a_manifest_of_a_later_schema_is_refused(local: BarStore) -> None:
    local.append(MONTHS)
    path = folder(local) / "_manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 3}))
    with pytest.raises(LakeError, match="schema 3, this mlkit reads 2; update mlkit"):
        local.read(*MARKET)


def test_a_second_writer_waits_and_then_says_whom_for(local: BarStore) -> None:
    impatient = BarStore(local.location, lock_timeout=0.05)
    refused: list[Exception] = []

    def second() -> None:
        try:
            impatient.append(MONTHS)
        except LakeError as error:
            refused.append(error)

    with local.lock("BTC/USDT:USDT"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        local.append(MONTHS)  # the holder itself goes on
    assert "another process is writing" in str(refused[0])
    assert impatient.append(MONTHS).known == len(MONTHS)


def test_other_engines_see_each_bar_once(local: BarStore) -> None:
    import duckdb

    local.append(MONTHS.iloc[:1500])
    local.append(changed(MONTHS.iloc[1400:], 3), on_conflict="replace")
    glob = f"{local.location}/symbol=*/timeframe=*/*.parquet"
    query = (
        "select symbol, timeframe, count(*), count(distinct timestamp), max(volume) from read_parquet(?) group by all"
    )
    assert duckdb.execute(query, [glob]).fetchall() == [(*MARKET, len(MONTHS), len(MONTHS), 7777.0)]
    frame = pd.read_parquet(local.location, filters=[("symbol", "==", "BTC/USDT:USDT")])
    bars = frame.drop(columns=["symbol", "timeframe"]).set_index("timestamp")
    pd.testing.assert_frame_equal(validate_bars(bars, symbol="A", timeframe="1h"), changed(MONTHS, 1403))
