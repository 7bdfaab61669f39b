"""What the laws say and refuse; test_mutants.py plants the leaks."""

import pandas as pd
import pytest

import mlkit
from mlkit.errors import BarsError, ConfigError
from mlkit.features.laws import LawError, check_feature


@pytest.fixture(scope="module")
def bars(sp500: pd.DataFrame) -> pd.DataFrame:
    return sp500.iloc[:1000]


def test_an_honest_feature_passes(bars: pd.DataFrame) -> None:
    report = check_feature(lambda b: b["close"] / b["close"].rolling(20).mean() - 1, bars, warm_up=19)
    assert report.passed
    report.require()


def test_the_error_names_law_column_and_bar(bars: pd.DataFrame) -> None:
    def tomorrow(b: pd.DataFrame) -> pd.Series:
        return b["close"].shift(-1).rename("tomorrow")

    with pytest.raises(LawError, match=r"prefix law: tomorrow at \d{4}-\d\d-\d\d .* was nan and became"):
        check_feature(tomorrow, bars, warm_up=0).require()


def test_the_catalogue_obeys_every_law(sp500: pd.DataFrame) -> None:
    warm = mlkit.feature_catalogue()["warm_up"].to_dict()
    report = check_feature(mlkit.build_features, sp500.iloc[-1510:], warm_up=warm)
    assert report.passed, report.breaches[0]


def test_purity_names_what_was_written(bars: pd.DataFrame) -> None:
    def doubling(b: pd.DataFrame) -> pd.Series:
        b["volume"] = 2 * b["volume"]
        return b["close"].pct_change().fillna(0.0)

    breach, *others = check_feature(doubling, bars, warm_up=1).breaches
    assert (breach.law, breach.column, breach.bar) == ("purity", "volume", str(bars.index[0]))
    assert breach.after == 2 * breach.before == 2 * bars["volume"].iloc[0]
    assert "because the function wrote into the bars" in str(breach)
    assert not others


def test_columns_that_depend_on_the_bars_are_refused(bars: pd.DataFrame) -> None:
    with pytest.raises(ConfigError, match=r"gave the columns .* when the bars after .* arrived; want the same"):
        check_feature(lambda b: b[["close"]].set_axis([f"last_{b.index[-1].date()}"], axis=1), bars, warm_up=5)


def test_a_leak_that_rarely_shows_is_found(bars: pd.DataFrame) -> None:
    """A year's highest volume, known on each of its days, changes at few cut points."""
    report = check_feature(lambda b: b["volume"] / b.groupby(b.index.year)["volume"].transform("max"), bars, warm_up=5)
    assert {"prefix", "scramble"} <= {breach.law for breach in report.breaches}


def test_the_report_shows_breaches_or_laws(bars: pd.DataFrame) -> None:
    passed = check_feature(lambda b: b["close"].diff().fillna(0.0), bars, warm_up=1)
    assert "1 columns: prefix, scramble, restart, purity, finite laws hold" in passed._repr_html_()
    broken = check_feature(lambda b: b["close"].shift(-1), bars, warm_up=1)
    assert f"{len(broken.breaches)} breaches" in broken._repr_html_()
    assert "finite law: close at" in broken._repr_html_()


def test_too_few_bars_and_wrong_length_are_refused(bars: pd.DataFrame) -> None:
    with pytest.raises(BarsError, match="need 400 bars for a warm-up of 50, have 100"):
        check_feature(lambda b: b["close"], bars.iloc[:100], warm_up=50)
    with pytest.raises(ConfigError, match="one a bar"):
        check_feature(lambda b: b["close"].dropna().iloc[1:], bars, warm_up=5)
