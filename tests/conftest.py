"""Bars for every test: the built-in real ones, and files beside the checkout when they are there."""

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

# A shell's background job ignores Ctrl-C, and so would every test of it and every process that a test starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).parents[1] / "../shared/data/ohlcv"
# Files that take longest, after the notebooks: begun last, one of them would run while the other workers are idle.
LONGEST = (
    "test_notebook_net.py",
    "test_guides.py",
    "test_panel_lab.py",
    "test_scale.py",
    "test_threads.py",
    "test_new_pattern.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notebooks and the longest files first; the others as they were."""

    def rank(item: pytest.Item) -> int:
        return 0 if item.path.suffix == ".ipynb" else 1 if item.path.name in LONGEST else 2

    items.sort(key=rank)


@pytest.fixture(scope="session", autouse=True)
def ledger_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Fits of the tests are no trials of the project: they go to a ledger of their own, and are not tracked."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLKIT_LEDGER_PATH", str(path))
        patch.setenv("MLKIT_TRACKING", "false")  # but where a test turns it on
        yield path


@pytest.fixture(scope="session")
def sp500() -> pd.DataFrame:
    """5,031 real daily bars of the S&P 500, 1999 to 2018."""
    import mlkit

    return mlkit.load_bars("SP500", "1d")


@pytest.fixture(scope="session")
def nasdaq() -> pd.DataFrame:
    """5,031 real daily bars of the NASDAQ composite, 1999 to 2018."""
    import mlkit

    return mlkit.load_bars("NASDAQ", "1d")


@pytest.fixture(scope="session")
def tuned_on() -> Callable[..., Any]:
    """``tuned_on(seen, settings, **parameters)``: as if a study of two trials had chosen these on the bars ``seen``."""
    from mlkit import FeatureSet
    from mlkit.market.bars import fingerprint
    from mlkit.operations.tracking.trials import feature_digest
    from mlkit.operations.tuning.tuned import Tuned, TuningSpan, save_tuned

    def tune(seen: pd.DataFrame, settings: Any, **parameters: float) -> Tuned:
        first, last = seen.index[0].isoformat(), seen.index[-1].isoformat()
        tuned = Tuned(
            symbol=seen.attrs["symbol"],
            timeframe=seen.attrs["timeframe"],
            profile=settings.profile,
            horizons=settings.prediction_horizons,
            features=feature_digest(FeatureSet()),
            seed=7,
            parameters=parameters,
            study="study",
            storage="sqlite://",
            saw=TuningSpan(start=first, end=last, bars=len(seen), sha256=fingerprint(seen)),
            folds=2,
            score=1.0,
            default_score=None,
            trials={"complete": 2, "pruned": 0, "failed": 0},
            configurations=("0" * 64, "1" * 64),
            created="2026-01-01T00:00:00+00:00",
        )
        save_tuned(tuned, settings)
        return tuned

    return tune


@pytest.fixture(scope="session")
def real_bars() -> Callable[[str], pd.DataFrame]:
    """Loader of ``SYMBOL-TIMEFRAME`` files; skips the test where the folder is absent."""
    import mlkit

    cache: dict[str, pd.DataFrame] = {}

    def load(name: str) -> pd.DataFrame:
        path = SHARED / f"{name}.parquet"
        if not path.is_file():
            pytest.skip(f"real bars {name} are not beside the checkout")
        if name not in cache:
            symbol, timeframe = name.rsplit("-", 1)
            cache[name] = mlkit.read_bars(path, symbol=symbol, timeframe=timeframe)
        return cache[name]

    return load
